"""How this machine reaches the network: proxies, a CA, mirrors, limits, or not at all. Read from the environment once.

Used by `sources.transport` and `sources.download`; made by `commands`. docs/sources.md lists the variables.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.credentials import user_and_password
from paddock_runner.sources.errors import SourceUnsupportedError

CA_FILE = "PADDOCK_CA_FILE"
MIRRORS = "PADDOCK_MIRRORS"
OFFLINE = "PADDOCK_OFFLINE"
RATE = "PADDOCK_DOWNLOAD_RATE"
CONNECTIONS = "PADDOCK_DOWNLOAD_CONNECTIONS"
PROXY_CREDENTIALS = "PADDOCK_PROXY_CREDENTIALS"

DEFAULT_CONNECTIONS = 8
MAX_CONNECTIONS = 64
MAX_MIRRORS = 16

_RATE = re.compile(r"([0-9]{1,15})(K|k|M|G|Ki|Mi|Gi)?")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: `connect` to an address, `silence` without a byte, `small` for the whole of a small answer.

    A small answer is asked for `attempts` times, with a `pause` that doubles, or as the server says (`longest_wait`).
    """

    connect: float = 10.0
    silence: float = 30.0
    small: float = 60.0
    longest_wait: float = 120.0
    pause: float = 0.5
    attempts: int = 4


@dataclass(frozen=True, slots=True)
class Network:
    """`proxies` by scheme of the URL (they may hold a password); `direct` hosts need none. `mirrors` by host.

    `rate` in bytes/s, 0 = no limit; `connections` per file.
    """

    rules: HostRules = field(default_factory=HostRules)
    proxies: Mapping[str, URL] = field(default_factory=dict, repr=False)
    direct: tuple[str, ...] = ()
    ca_file: Path | None = None
    mirrors: Mapping[str, tuple[URL, ...]] = field(default_factory=dict)
    offline: bool = False
    rate: int = 0
    connections: int = DEFAULT_CONNECTIONS
    timeouts: Timeouts = Timeouts()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Network:
        """Read the settings. Raises SourceUnsupportedError that names the variable, and never shows a password.

        Raises UnauthorizedError (retryable) if the folder of PADDOCK_PROXY_CREDENTIALS does not hold what it must.
        """
        ca_file = environment.get(CA_FILE) or environment.get("SSL_CERT_FILE")
        proxies = {scheme: _proxy(environment, scheme) for scheme in ("http", "https")}
        return cls(
            rules=HostRules.from_environment(environment),
            proxies={scheme: url for scheme, url in proxies.items() if url is not None},
            direct=tuple(part.strip().lower() for part in _either(environment, "NO_PROXY").split(",") if part.strip()),
            ca_file=Path(ca_file) if ca_file else None,
            mirrors=_mirrors(environment.get(MIRRORS, "")),
            offline=_switch(environment, OFFLINE),
            rate=_rate(environment.get(RATE, "")),
            connections=_connections(environment.get(CONNECTIONS, "")),
        )

    def proxy_for(self, url: URL) -> URL | None:
        """The proxy that a request to `url` goes through, None for a direct connection."""
        host = (url.host or "").lower()
        if any(_is_direct(host, url.port, item) for item in self.direct):
            return None
        return self.proxies.get(url.scheme)

    def mirrors_of(self, url: URL) -> tuple[URL, ...]:
        """Where else the same path may be, in the order of asking."""
        host = (url.host or "").lower()
        bases = self.mirrors.get(f"{host}:{url.port}", ()) or self.mirrors.get(host, ())
        tail = url.raw_path_qs
        return tuple(URL(f"{str(base).rstrip('/')}{tail}", encoded=True) for base in bases)

    def ssl_context(self) -> ssl.SSLContext:
        """The system's authorities, and those of `ca_file`. Raises SourceUnsupportedError."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            try:
                context.load_verify_locations(self.ca_file)
            except OSError as error:
                # ssl.SSLError is an OSError too: a file that holds no certificate.
                raise SourceUnsupportedError(
                    f"{CA_FILE}: {self.ca_file} holds no usable certificates: {error}"
                ) from None
        return context


def _either(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


def _proxy(environment: Mapping[str, str], scheme: str) -> URL | None:
    name = f"{scheme.upper()}_PROXY"
    text = _either(environment, name)
    if not text:
        return None
    url = _url(text if "://" in text else f"http://{text}")
    if url is None:
        raise SourceUnsupportedError(f"{name} must be http://[user:password@]host:port")
    if (folder := environment.get(PROXY_CREDENTIALS)) and url.user is None:
        user, password = user_and_password(Path(folder), "of the proxy")
        url = url.with_user(user).with_password(password)
    return url


def _url(text: str) -> URL | None:
    try:
        url = URL(text)
        # A host that IDNA refuses is told when it is asked for.
        return url if url.scheme in ("http", "https") and url.host and not url.query_string else None
    except ValueError:
        return None


def _mirrors(text: str) -> dict[str, tuple[URL, ...]]:
    found: dict[str, tuple[URL, ...]] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        host, _, base = part.partition("=")
        url = _url(base)
        if not host or url is None or url.user is not None or url.password is not None:
            raise SourceUnsupportedError(f"{MIRRORS} must be a list of host=https://mirror[/path], without credentials")
        found[host.lower()] = (*found.get(host.lower(), ()), url)
    if sum(map(len, found.values())) > MAX_MIRRORS:
        raise SourceUnsupportedError(f"{MIRRORS} lists more than {MAX_MIRRORS} mirrors")
    return found


def _switch(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "").strip().lower()
    if value not in (*_TRUE, *_FALSE):
        raise SourceUnsupportedError(f"{name} must be 1 or 0")
    return value in _TRUE


def _rate(text: str) -> int:
    match = _RATE.fullmatch(text.strip() or "0")
    if match is None:
        raise SourceUnsupportedError(f"{RATE} must be bytes per second, such as 50M or 8Mi; 0 is no limit")
    return int(match[1]) * _UNITS[match[2] or ""]


def _connections(text: str) -> int:
    value = text.strip() or str(DEFAULT_CONNECTIONS)
    if not value.isascii() or not value.isdecimal() or len(value) > 3 or not 1 <= int(value) <= MAX_CONNECTIONS:
        raise SourceUnsupportedError(f"{CONNECTIONS} must be a number from 1 to {MAX_CONNECTIONS}")
    return int(value)


def _is_direct(host: str, port: int | None, item: str) -> bool:
    """Whether an item of NO_PROXY (`*`, a host, a domain and what is below, with or without a port, a network) fits."""
    if item == "*":
        return True
    name, colon, number = item.rpartition(":")
    if colon and number.isdecimal() and (name.startswith("[") or ":" not in name):
        if number != str(port):
            return False
        item = name
    item = item.strip("[]").removeprefix("*").removeprefix(".")
    return host == item or host.endswith(f".{item}") or _in_network(host, item)


def _in_network(host: str, item: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(item, strict=False)
    except ValueError:
        return False
