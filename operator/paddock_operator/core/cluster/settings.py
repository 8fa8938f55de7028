"""The operator's settings on a cluster: one YAML file, mounted from the chart's ConfigMap.

`parse_settings` is called once at start by `paddock_operator.settings`; the plans read the result. It is strict: a
misspelt field would otherwise be a setting that silently does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from ipaddress import ip_network
from typing import Any, get_args

from paddock_operator.core.cluster.source_settings import OPTIONAL, SOURCE_CHECKS, Sources, unreachable
from paddock_operator.core.problems import suggestion
from paddock_operator.core.quantity import quantity
from paddock_operator.core.wire import build, hints, name_in_wire


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
class ApiServer:
    """Where gateways reach the API server, for their NetworkPolicy."""

    cidr: str = "0.0.0.0/0"
    ports: tuple[int, ...] = (443, 6443)


@dataclass(frozen=True, slots=True)
class Settings:
    """`namespaces` empty means all. Times are seconds; a `drift_seconds` of 0 asks no source whether it moved."""

    namespace: str = "paddock-system"
    namespaces: tuple[str, ...] = ()
    images: Images = Images()
    cache: Cache = Cache()
    sources: Sources = field(default_factory=Sources)
    api_server: ApiServer = ApiServer()
    max_rolling: int = 2
    drift_seconds: int = 86400
    collect_seconds: int = 86400
    collect_min_age_seconds: int = 3600
    resync_seconds: int = 600
    workers: int = 8
    metrics_port: int = 9090
    health_port: int = 8081
    leader_election: bool = False


CHOICES = {
    "cache.mode": ("Shared", "Node"),
    "cache.accessMode": ("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"),
    "images.pullPolicy": ("Always", "IfNotPresent", "Never"),
}
SMALLEST = {
    "sources.connections": 0,
    "maxRolling": 1,
    "driftSeconds": 0,
    "collectSeconds": 5,
    "collectMinAgeSeconds": 0,
    "resyncSeconds": 1,
    "workers": 1,
}
PARSED: Mapping[str, Callable[[Any], object]] = {
    "cache.size": quantity,
    "sources.allow.cidr": ip_network,
    **SOURCE_CHECKS,
    "apiServer.cidr": ip_network,
}
MOST = {"sources.connections": 64}
PORTS = ("metricsPort", "healthPort", "sources.allow.port", "apiServer.ports")


def parse_settings(document: Mapping[str, Any]) -> Settings:
    """Settings from the file's camelCase mapping. Raises ValueError that names every unknown or wrong field."""
    found = list(_problems(Settings, document, "", ""))
    if not found:
        settings = build(Settings, document)
        found = list(unreachable(settings.sources))
        if not found:
            return settings
    raise ValueError("; ".join(found))


def _problems(cls: Any, value: Any, place: str, path: str) -> Iterator[str]:
    """`place` is for people (`sources.allow[0].port`), `path` the same without positions."""
    if not isinstance(value, Mapping):
        yield f"{place or 'the settings'} must be a mapping, not {value!r}"
        return
    known = {name_in_wire(cls, name): hint for name, hint in hints(cls).items()}
    for name, given in value.items():
        if name in known:
            yield from _value(known[name], given, _under(place, name), _under(path, name))
        else:
            nearest = suggestion(str(name), tuple(known))
            fix = f"did you mean {_under(place, nearest)}?" if nearest else f"known are {', '.join(known)}"
            yield f"{_under(place, str(name))} is not a setting; {fix}"
    yield from (f"{_under(place, name)} is required" for name in _required(cls, known) if value.get(name) is None)


def _under(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _required(cls: Any, known: Mapping[str, Any]) -> list[str]:
    return [name for name in known if cls in OPTIONAL and name != OPTIONAL[cls]]


def _value(hint: Any, given: Any, place: str, path: str) -> Iterator[str]:
    if given is None:
        return
    if is_dataclass(hint):
        yield from _problems(hint, given, place, path)
    elif args := get_args(hint):
        yield from _items(args[0], given, place, path)
    elif type(given) is not hint:
        yield f"{place} must be {_WORDS[hint]}, not {given!r}"
    else:
        yield from _bounds(given, place, path)


def _items(hint: Any, given: Any, place: str, path: str) -> Iterator[str]:
    if not isinstance(given, list):
        yield f"{place} must be a list, not {given!r}"
        return
    for index, item in enumerate(given):
        yield from _value(hint, item, f"{place}[{index}]", path)


_WORDS = {str: "text", int: "a whole number", bool: "true or false"}


def _bounds(given: Any, place: str, path: str) -> Iterator[str]:
    if path in CHOICES and given not in CHOICES[path]:
        yield f"{place} must be one of {', '.join(CHOICES[path])}, not {given!r}"
    if path in SMALLEST and given < SMALLEST[path]:
        yield f"{place} must be at least {SMALLEST[path]}, not {given}"
    if path in MOST and given > MOST[path]:
        yield f"{place} must be at most {MOST[path]}, not {given}"
    if path in PORTS and not 1 <= given <= 65535:
        yield f"{place} must be a port, 1 to 65535, not {given}"
    try:
        PARSED.get(path, str)(given)
    except ValueError as error:
        yield f"{place}: {error}"
