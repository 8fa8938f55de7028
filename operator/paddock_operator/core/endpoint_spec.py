"""The typed spec of an Endpoint: one dataclass per section of `crds/endpoints.paddock.dev.yaml`.

Called by `resources.parse` and read by the plans. `tests/crds` keeps these classes equal to the CRD. No behavioural
default lives here: what is absent stays None (or empty) and the plan decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EndpointModel:
    name: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SelectorRequirement:
    key: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[SelectorRequirement, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiKeys:
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    namespace: str | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceAccounts:
    accounts: tuple[Account, ...]
    audience: str | None = None


@dataclass(frozen=True, slots=True)
class Jwt:
    issuer: str
    jwks_url: str
    audience: str
    models_claim: str | None = None


@dataclass(frozen=True, slots=True)
class NoAuth:
    """Written as `none: {}`: everybody who reaches the port may use every model."""


@dataclass(frozen=True, slots=True)
class Auth:
    api_keys: ApiKeys | None = None
    service_accounts: ServiceAccounts | None = None
    jwt: Jwt | None = None
    none: NoAuth | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    queue_depth: int | None = None
    queue_wait: str | None = None
    body_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    strategy: str | None = None
    load_factor_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Activation:
    mode: str | None = None
    hold_timeout: str | None = None
    heartbeat: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    port: int | None = None
    type: str | None = None
    node_port: int | None = None
    load_balancer_class: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ingress:
    host: str
    class_name: str | None = None
    tls_secret_name: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParentRef:
    name: str
    namespace: str | None = None
    section_name: str | None = None


@dataclass(frozen=True, slots=True)
class HttpRoute:
    parent_refs: tuple[ParentRef, ...]
    hostnames: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tls:
    secret_name: str


@dataclass(frozen=True, slots=True)
class Peer:
    namespace_selector: LabelSelector | None = None
    pod_selector: LabelSelector | None = None
    cidr: str | None = None


@dataclass(frozen=True, slots=True)
class Network:
    allow_from: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    models: tuple[EndpointModel, ...] = ()
    selector: LabelSelector | None = None
    auth: Auth | None = None
    limits: Limits | None = None
    apis: tuple[str, ...] = ()
    routing: Routing | None = None
    activation: Activation | None = None
    management: str | None = None
    service: Service | None = None
    ingress: Ingress | None = None
    http_route: HttpRoute | None = None
    tls: Tls | None = None
    network: Network | None = None
    replicas: int | None = None
