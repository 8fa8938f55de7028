"""The operator's settings about sources: what pullers may reach and how. A part of `settings`, which checks them.

Read by the builders of pullers and of their NetworkPolicy. What each setting does is in docs/sources.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class AllowedSource:
    """A source beyond public HTTPS.

    `host` (`name` or `name:port`) is for the puller's own check, `cidr` and `port` for its NetworkPolicy.
    """

    host: str
    cidr: str
    port: int = 443


@dataclass(frozen=True, slots=True)
class Mirror:
    """`url` is asked before `host`. `cidr` is for the pullers' NetworkPolicy; empty: a public address, port 443."""

    host: str
    url: str
    cidr: str = ""

    @property
    def authority(self) -> str:
        """Host and port as pullers list them."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class Proxy:
    """URLs by the scheme of what is asked for; `no_proxy` are hosts, domains and networks that are asked directly.

    `cidr`: where the proxies are, for the NetworkPolicy. `secret`: in each namespace of Models, with `username` and
    `password` for them.
    """

    https: str = ""
    http: str = ""
    no_proxy: tuple[str, ...] = ()
    cidr: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """How pullers reach the network (docs/sources.md). `rate` in bytes per second (`50M`), `connections` to one file; 0
    and empty are the puller's defaults. `ca_config_map`: a ConfigMap with `ca.crt` in each namespace of Models.
    """

    allow: tuple[AllowedSource, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    proxy: Proxy = Proxy()
    offline: bool = False
    rate: str = ""
    connections: int = 0
    ca_config_map: str = ""
    hugging_face_endpoint: str = ""

    @property
    def only_by_proxy(self) -> bool:
        """Whether nothing on the internet is asked directly."""
        return bool(self.proxy.https) and not self.proxy.no_proxy

    @property
    def own_places(self) -> tuple[tuple[str, int], ...]:
        """(cidr, port) of the proxies and mirrors."""
        urls = [*((self.proxy.cidr, url) for url in (self.proxy.https, self.proxy.http)), *_places(self.mirrors)]
        return tuple((cidr, port_of(url)) for cidr, url in urls if cidr and url)


def _places(mirrors: tuple[Mirror, ...]) -> list[tuple[str, str]]:
    return [(mirror.cidr, mirror.url) for mirror in mirrors]


def port_of(url: str) -> int:
    """The port of a checked URL."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _matching(pattern: str, words: str, *, optional: bool = True) -> Callable[[Any], object]:
    """A check of a text, for `PARSED`; an empty one is the default where it is optional."""
    compiled = re.compile(pattern)

    def check(text: Any) -> object:
        if not compiled.fullmatch(text) and (text or not optional):
            raise ValueError(f"must be {words}, not {text!r}")
        return text

    return check


_host = _matching(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:[0-9]{1,5})?", "a host such as registry.ollama.ai", optional=False)
_direct = _matching(r"[A-Za-z0-9.*:/\[\]_-]{1,253}", "a host, a domain or a network", optional=False)
_rate = _matching(r"[0-9]{1,15}(K|k|M|G|Ki|Mi|Gi)?", "bytes per second such as 50M")
_object_name = _matching(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", "the name of a ConfigMap or Secret")


def _network(text: Any) -> object:
    return ip_network(text) if text else text


def _url(text: Any) -> object:
    """An address without user, password or query: settings are no place for credentials."""
    if not text:
        return text
    parts = urlsplit(text)
    plain = not (parts.username or parts.password or parts.query or parts.fragment or "," in text or parts.port == 0)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or not text.isprintable():
        raise ValueError("must be http(s)://host[:port][/path] without user, password, query or comma")
    return text


SOURCE_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "sources.mirrors.host": _host,
    "sources.mirrors.url": _url,
    "sources.mirrors.cidr": _network,
    "sources.proxy.https": _url,
    "sources.proxy.http": _url,
    "sources.proxy.noProxy": _direct,
    "sources.proxy.cidr": _network,
    "sources.proxy.secret": _object_name,
    "sources.rate": _rate,
    "sources.caConfigMap": _object_name,
    "sources.huggingFaceEndpoint": _url,
}
"""Checks of single values by their path; each raises ValueError."""
OPTIONAL: Mapping[Any, str] = {AllowedSource: "port", Mirror: "cidr"}
"""The one field of an entry that may be left out."""


def unreachable(sources: Sources) -> Iterator[str]:
    """What no NetworkPolicy could let pullers reach: policies know addresses, no names."""
    if (sources.proxy.https or sources.proxy.http) and not sources.proxy.cidr:
        yield "sources.proxy.cidr is required: the addresses of the proxy, for the NetworkPolicy of pullers"
    for index, mirror in enumerate(sources.mirrors):
        if not mirror.cidr and port_of(mirror.url) != HTTPS_PORT:
            yield f"sources.mirrors[{index}].cidr is required for another port than {HTTPS_PORT}"
