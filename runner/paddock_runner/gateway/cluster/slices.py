"""EndpointSlices as addresses of runners: ready, not terminating. Called by the reflector of `gateway.cluster.link`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from paddock_runner.gateway.cluster.client import Json

SERVICE = "kubernetes.io/service-name"
PORT = "http"
_FAMILIES = ("IPv4", "IPv6")

Addresses = Mapping[str, tuple[str, ...]]
"""http://HOST:PORT of the runners that may be asked, by the name of their Service."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What is kept of an EndpointSlice: (who, URL) of each usable endpoint."""

    service: str
    family: str
    urls: tuple[tuple[str, str], ...]


class SliceSource:
    """Keeps the slices of a namespace and publishes all addresses after each change."""

    def __init__(self, publish: Callable[[Addresses], object]) -> None:
        self._publish = publish
        self._slices: dict[str, Slice] = {}

    def replaced(self, objects: Sequence[Json]) -> None:
        """All slices there are."""
        self._slices = {_name(value): read(value) for value in objects}
        self._publish(addresses(self._slices.values()))

    def changed(self, kind: str, value: Json) -> None:
        """An event of one slice."""
        if kind == "DELETED":
            self._slices.pop(_name(value), None)
        else:
            self._slices[_name(value)] = read(value)
        self._publish(addresses(self._slices.values()))


def read(value: Json) -> Slice:
    """The usable part of an EndpointSlice; what makes no sense in it is left out."""
    labels = (value.get("metadata") or {}).get("labels") or {}
    family = str(value.get("addressType"))
    ports = [entry.get("port") for entry in value.get("ports") or [] if entry.get("name") == PORT]
    usable = [entry for entry in value.get("endpoints") or [] if _usable(entry)] if ports and ports[0] else []
    urls = ((_who(entry), _url(entry["addresses"][0], ports[0])) for entry in usable)
    kept = tuple((who, url) for who, url in urls if url) if family in _FAMILIES else ()
    return Slice(str(labels.get(SERVICE, "")), family, kept)


def addresses(slices: Iterable[Slice]) -> Addresses:
    """The addresses by Service. A pod with two families counts once, by the first."""
    found: dict[str, dict[str, str]] = {}
    for item in sorted(slices, key=lambda item: _FAMILIES.index(item.family) if item.urls else 0):
        of_service = found.setdefault(item.service, {})
        for who, url in item.urls:
            of_service.setdefault(who, url)
    return {service: tuple(sorted(set(urls.values()))) for service, urls in found.items()}


def _usable(entry: Json) -> bool:
    # An unknown readiness means ready, an unknown termination means none, says the API.
    conditions = entry.get("conditions") or {}
    return conditions.get("ready") is not False and not conditions.get("terminating") and bool(entry.get("addresses"))


def _who(entry: Json) -> str:
    return str((entry.get("targetRef") or {}).get("uid") or entry["addresses"][0])


def _url(address: str, port: int) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return f"http://[{parsed}]:{port}" if parsed.version == 6 else f"http://{parsed}:{port}"


def _name(value: Json) -> str:
    return str((value.get("metadata") or {}).get("name"))
