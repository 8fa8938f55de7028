"""The public names and the backend credentials of every Model, from the Endpoints of its namespace.

Kept per namespace and made anew when a ring says that it may have changed. Called by the Model reconciler.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from paddock_operator.core.cluster.labels import CREDENTIAL_HASH, ENDPOINT_ID
from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.cluster.snapshot import model_snapshot
from paddock_operator.core.endpoint_routes import routes
from paddock_operator.core.observed import ModelSnapshot
from paddock_operator.core.resources import Endpoint, parse
from paddock_operator.executors.kube.kinds import ENDPOINT, MODEL
from paddock_operator.executors.kube.world import World

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """How a Model is reached: its public names, and (endpoint id, SHA-256) of who may call its runners."""

    names: tuple[str, ...] = ()
    credentials: tuple[tuple[str, str], ...] = ()


class Names:
    """Tables by namespace. `served` remembers what each Model was last told, `stale` says who must hear news."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tables: dict[str, Mapping[str, Served]] = {}
        self._snapshots: dict[tuple[str, str], tuple[str, ModelSnapshot]] = {}
        self._told: dict[tuple[str, str], Served] = {}

    def invalidate(self, namespace: str) -> None:
        """Something changed that names depend on."""
        self._tables.pop(namespace, None)

    def served(self, namespace: str, model: str) -> Served:
        """What this Model must know now; remembered as told."""
        found = self._table(namespace).get(model, Served())
        self._told[namespace, model] = found
        return found

    def stale(self, namespace: str) -> list[str]:
        """The Models of a namespace whose names or credentials are others than they were told."""
        table = self._table(namespace)
        told = [(model, was) for (place, model), was in self._told.items() if place == namespace]
        return [model for model, was in told if table.get(model, Served()) != was]

    def forget(self, namespace: str, model: str) -> None:
        """A Model is gone."""
        self._told.pop((namespace, model), None)
        self._snapshots.pop((namespace, model), None)

    def snapshots(self, namespace: str) -> dict[str, ModelSnapshot]:
        """All Models of a namespace as Endpoints see them."""
        items = self._world.store(MODEL.name).within(namespace)
        return {item["metadata"]["name"]: self._snapshot(namespace, item) for item in items}

    def _snapshot(self, namespace: str, item: Object) -> ModelSnapshot:
        place = (namespace, item["metadata"]["name"])
        version = item["metadata"]["resourceVersion"]
        known = self._snapshots.get(place)
        if known is None or known[0] != version:
            known = self._snapshots[place] = (version, model_snapshot(item))
        return known[1]

    def _table(self, namespace: str) -> Mapping[str, Served]:
        if namespace not in self._tables:
            self._tables[namespace] = self._make(namespace)
        return self._tables[namespace]

    def _make(self, namespace: str) -> Mapping[str, Served]:
        endpoints = self._world.store(ENDPOINT.name).within(namespace)
        if not endpoints:
            return {}
        models = self.snapshots(namespace)
        hashes = self._credentials(namespace)
        table: dict[str, Served] = {}
        for item in endpoints:
            _add(table, item, models, hashes)
        return table

    def _credentials(self, namespace: str) -> dict[str, str]:
        secrets = self._world.endpoint_secrets.within(namespace)
        marks = [item["metadata"].get("annotations") or {} for item in secrets]
        return {
            mark[ENDPOINT_ID]: mark[CREDENTIAL_HASH]
            for mark in marks
            if ENDPOINT_ID in mark and CREDENTIAL_HASH in mark
        }


def _add(
    table: dict[str, Served], item: Object, models: Mapping[str, ModelSnapshot], hashes: Mapping[str, str]
) -> None:
    try:
        endpoint = parse(item)
    except (ValueError, TypeError, KeyError) as error:
        log.error("Endpoint %s cannot be read: %s", item["metadata"]["name"], error)
        return
    if not isinstance(endpoint, Endpoint) or item["metadata"].get("deletionTimestamp"):
        return
    identity = f"{endpoint.ref.namespace}/{endpoint.ref.name}"
    credential = ((identity, hashes[identity]),) if identity in hashes else ()
    for route in routes(endpoint.spec, models)[0]:
        if route.model is not None and route.names:
            before = table.get(route.name, Served())
            names = tuple(dict.fromkeys((*before.names, *route.names)))
            table[route.name] = replace(before, names=names, credentials=before.credentials + credential)
