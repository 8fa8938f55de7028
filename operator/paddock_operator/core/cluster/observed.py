"""What the cluster executor saw, as plain data: the only input of the cluster plans besides the settings.

Filled by `executors.kube`; read by `model`, `endpoint` and `namespace` of this package. Objects are the API server's
JSON, trimmed (managedFields reduced, see `executors.kube.reflector`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.observed import ModelSnapshot
from paddock_operator.core.resources import KeyRecord

Object = Mapping[str, Any]
"""One Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True)
class Children:
    """The live children of one object by kind: those with our labels whose controller reference is its uid.

    Pods are those with the object's child label (their controllers are Jobs and ReplicaSets).
    """

    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    deployments: tuple[Object, ...] = ()
    config_maps: tuple[Object, ...] = ()
    services: tuple[Object, ...] = ()
    disruption_budgets: tuple[Object, ...] = ()
    secrets: tuple[Object, ...] = ()
    service_accounts: tuple[Object, ...] = ()
    roles: tuple[Object, ...] = ()
    role_bindings: tuple[Object, ...] = ()
    network_policies: tuple[Object, ...] = ()
    ingresses: tuple[Object, ...] = ()
    http_routes: tuple[Object, ...] = ()

    def all(self) -> tuple[Object, ...]:
        """Every child but the pods."""
        kinds = (getattr(self, item.name) for item in fields(self) if item.name != "pods")
        return tuple(chain.from_iterable(kinds))


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """`model` is the object itself. `events` maps a pod's uid to the last event of its log (contracts:
    `state` of a runner, `progress` of a puller). `warnings` maps the uid of a pod, Job or ReplicaSet to its newest
    Warning (reason, message). `credentials` are (endpoint id, SHA-256) and `names` the public names of the Endpoints
    that serve this Model. `may_roll`: this Model may roll its pods now for a mere operator upgrade. `claim` is the
    namespace's cache claim, None while it does not exist.
    `refused`: the API server's words about a child that it does not take ("" if it took all). `others`: the Models of
    the namespace by name, if this one is made from one of them.
    """

    model: Object
    children: Children
    claim: Object | None
    events: Mapping[str, Mapping[str, Any]]
    warnings: Mapping[str, tuple[str, str]]
    names: tuple[str, ...]
    credentials: tuple[tuple[str, str], ...]
    now: str
    settings: Settings
    may_roll: bool = True
    refused: str = ""
    others: Mapping[str, Object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndpointSeen:
    """`credential` is the clear backend credential (made by the executor once, kept in the Endpoint's Secret).

    `keys_problem` says why key Secrets cannot be read ("" if they can). `has_http_route`: the cluster knows the kind.
    `refused`: the API server's words about a child that it does not take ("" if it took all).
    """

    endpoint: Object
    children: Children
    warnings: Mapping[str, tuple[str, str]]
    models: Mapping[str, ModelSnapshot]
    keys: tuple[KeyRecord, ...]
    keys_problem: str
    credential: str
    now: str
    settings: Settings
    may_roll: bool = True
    has_http_route: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class NamespaceSeen:
    """What one namespace has: all its Models and Endpoints, and the shared children (label, no owner)."""

    namespace: str
    models: tuple[Object, ...]
    endpoints: tuple[Object, ...]
    children: Children
    claim: Object | None
    model_config_maps: tuple[Object, ...]
    now: str
    settings: Settings
    pods: tuple[Object, ...] = field(default=())
