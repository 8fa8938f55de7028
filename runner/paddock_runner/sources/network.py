"""How the puller reaches the network: proxies, mirrors, certificates, limits; read once from the environment.

Used by `transport`. Nothing here does I/O. docs/sources.md lists the variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import getproxies_environment, proxy_bypass_environment

from yarl import URL

from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.errors import SourceUnsupportedError

DEFAULT_CONNECTIONS = 8
MAX_CONNECTIONS = 64
MAX_MIRRORS = 16
_RATE = re.compile(r"(\d{1,12})([KMG]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `silence` is the longest without a byte, `small` the whole of a small answer."""

    connect: float = 10.0
    silence: float = 30.0
    small: float = 60.0
    longest_wait: float = 120.0
    pause: float = 0.5
    attempts: int = 4


@dataclass(frozen=True, slots=True)
class Network:
    """`mirrors` maps a host to base URLs that are asked before it; `rate` is bytes per second, 0 without a limit."""

    rules: HostRules = field(default_factory=HostRules)
    proxies: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    offline: bool = False
    rate: int = 0
    connections: int = DEFAULT_CONNECTIONS
    timeouts: Timeouts = Timeouts()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Network:
        """Read the variables. Raises SourceUnsupportedError that names the one that is wrong."""
        ca_file = environment.get("PADDOCK_CA_FILE") or environment.get("SSL_CERT_FILE")
        return cls(
            rules=HostRules.from_environment(environment),
            proxies=_proxies(environment),
            ca_file=Path(ca_file) if ca_file else None,
            mirrors=_mirrors(environment.get("PADDOCK_MIRRORS", "")),
            offline=_flag("PADDOCK_OFFLINE", environment),
            rate=_rate(environment.get("PADDOCK_DOWNLOAD_RATE", "0")),
            connections=_connections(environment.get("PADDOCK_DOWNLOAD_CONNECTIONS") or str(DEFAULT_CONNECTIONS)),
        )

    def proxy_for(self, url: URL) -> str | None:
        """The proxy that `url` is asked through, None to go straight. Listed hosts of NO_PROXY go straight."""
        if not self.proxies or proxy_bypass_environment(f"{url.host}:{url.port}", dict(self.proxies)):
            return None
        return self.proxies.get(url.scheme) or self.proxies.get("all")

    def candidates(self, url: URL) -> tuple[URL, ...]:
        """The URLs to try in turn: the host's mirrors, then the host itself."""
        bases = self.mirrors.get(f"{url.host}:{url.explicit_port}") or self.mirrors.get(url.host or "") or ()
        return (*(_below(URL(base), url) for base in bases), url)


def _below(base: URL, url: URL) -> URL:
    return URL(f"{str(base).rstrip('/')}{url.raw_path_qs}", encoded=True)


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    if environment is os.environ:
        return getproxies_environment()
    found = {name.lower(): value for name, value in environment.items() if name.lower().endswith("_proxy") and value}
    return {name.removesuffix("_proxy"): value for name, value in found.items()}


def _flag(name: str, environment: Mapping[str, str]) -> bool:
    value = environment.get(name, "").lower()
    if value not in ("", "0", "1", "true", "false"):
        raise SourceUnsupportedError(f"{name} must be 1 or 0, not {value[:20]!r}")
    return value in ("1", "true")


def _rate(text: str) -> int:
    match = _RATE.fullmatch(text.strip() or "0")
    if match is None:
        raise SourceUnsupportedError(
            f"PADDOCK_DOWNLOAD_RATE must be bytes per second such as 500K or 50M, not {text[:20]!r}"
        )
    return int(match[1]) * _UNITS[match[2].upper()]


def _connections(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:6]) <= MAX_CONNECTIONS:
        raise SourceUnsupportedError(f"PADDOCK_DOWNLOAD_CONNECTIONS must be 1 to {MAX_CONNECTIONS}, not {text[:20]!r}")
    return int(text)


def _mirrors(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, equals, base = part.partition("=")
        if not equals or not host or not base.startswith(("https://", "http://")) or len(found) >= MAX_MIRRORS:
            raise SourceUnsupportedError(
                f"PADDOCK_MIRRORS must be host=https://mirror, separated by commas, at most {MAX_MIRRORS} hosts"
            )
        found[host.lower()] = (*found.get(host.lower(), ()), base)
    return found
