"""The operator's settings on a cluster: one YAML file, mounted from the chart's ConfigMap.

`parse_settings` is called once at start by `paddock_operator.settings`; the plans read the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.wire import build


@dataclass(frozen=True, slots=True)
class Images:
    """Image references; the gateway's is also the puller's and the collector's."""

    gateway: str = "paddock-gateway:dev"
    runner: str = "paddock-runner:dev"
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cache:
    """The PersistentVolumeClaim of each namespace. `mode` is Shared or Node (one static local volume on every node).

    `size` is a quantity; an empty `storage_class` is the cluster's default. A claim that exists is used as it is.
    """

    mode: str = "Shared"
    claim_name: str = "paddock-cache"
    size: str = "100Gi"
    storage_class: str = ""
    access_mode: str = "ReadWriteOnce"


@dataclass(frozen=True, slots=True)
class AllowedSource:
    """A source beyond public HTTPS.

    `host` (`name` or `name:port`) is for the puller's own check, `cidr` and `port` for its NetworkPolicy.
    """

    host: str
    cidr: str
    port: int = 443


@dataclass(frozen=True, slots=True)
class Sources:
    allow: tuple[AllowedSource, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where gateways reach the API server, for their NetworkPolicy."""

    cidr: str = "0.0.0.0/0"
    ports: tuple[int, ...] = (443, 6443)


@dataclass(frozen=True, slots=True)
class Settings:
    """`namespaces` empty means all. Times are seconds."""

    namespace: str = "paddock-system"
    namespaces: tuple[str, ...] = ()
    images: Images = Images()
    cache: Cache = Cache()
    sources: Sources = Sources()
    api_server: ApiServer = ApiServer()
    max_rolling: int = 2
    collect_seconds: int = 86400
    resync_seconds: int = 600
    workers: int = 8
    metrics_port: int = 9090
    health_port: int = 8081
    leader_election: bool = False


def parse_settings(document: Mapping[str, Any]) -> Settings:
    """Settings from the file's camelCase mapping. Raises ValueError that names an unknown or wrong field."""
    return build(Settings, document)
