"""Which hosts and addresses a puller may reach: public ones over TLS, and whatever the environment lists by name.

Called by `transport`. The address is checked after name resolution and the connection goes to exactly that address, so
a name that changes its answer gains nothing.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from paddock_runner.sources.errors import ForbiddenAddressError, InsecureSourceError, SourceUnsupportedError

VARIABLE = "PADDOCK_ALLOW_INSECURE_HOSTS"
MAX_ADDRESSES = 16
MAX_URL_CHARACTERS = 8192

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            # Python's own list changes from version to version; these are named here. Metadata services among them.
            "192.0.0.0/24",
            "192.88.99.0/24",
            "168.63.129.16/32",
            "64:ff9b:1::/48",
            "100::/64",
            "2001::/23",
            "3fff::/20",
            "5f00::/16",
            "fec0::/10",
        ),
    )
)
_NAME = re.compile(r"(?=.{1,254}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(text: str) -> bool:
    """Whether an address is on the public internet; addresses that carry an IPv4 address are judged by that too."""
    address = ipaddress.ip_address(text.partition("%")[0])
    inner = _embedded(address)
    if inner is not None:
        return _is_global(inner)
    return _is_global(address)


def _is_global(address: Address) -> bool:
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo


@dataclass(frozen=True, slots=True)
class HostRules:
    """`listed` hosts (lower case, `host` or `host:port`) may be plain HTTP and may have any address."""

    listed: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> HostRules:
        """Read the comma-separated list of PADDOCK_ALLOW_INSECURE_HOSTS."""
        parts = environment.get(VARIABLE, "").split(",")
        return cls(frozenset(part.strip().lower() for part in parts if part.strip()))

    def lists(self, host: str, port: int | None) -> bool:
        bare = host.strip("[]").lower()
        return bool({bare, f"{bare}:{port}", f"[{bare}]:{port}"} & self.listed)

    def check(self, url: URL) -> None:
        """Judge a URL before any packet. Raises SourceUnsupportedError, InsecureSourceError, ForbiddenAddressError."""
        if url.scheme not in ("http", "https") or not url.host or len(str(url)) > MAX_URL_CHARACTERS:
            raise SourceUnsupportedError("the URL must be https://host/path, at most 8192 characters")
        if url.user is not None or url.password is not None:
            raise SourceUnsupportedError("the URL must not hold credentials")
        if not _is_host(url.raw_host or ""):
            raise SourceUnsupportedError(f"the URL's host {url.raw_host!r:.80} is neither a name nor an address")
        if self.lists(url.host, url.port):
            return
        if url.scheme != "https":
            raise InsecureSourceError(f"{url.host} would be reached without TLS; use https, or list it in {VARIABLE}")
        if (address := _literal(url.host)) is not None:
            self.check_address(url.host, address)

    def check_address(self, host: str, address: str) -> None:
        """Raise ForbiddenAddressError unless `address` is public."""
        if not is_public(address):
            raise ForbiddenAddressError(f"{host} has the address {address}, which is not public; list it in {VARIABLE}")


def _is_host(host: str) -> bool:
    """Whether it is an address, or a name that a resolver may be asked for."""
    # What is made of digits and is no address would be given to the C library without being judged.
    return _literal(host) is not None or (_NAME.fullmatch(host) is not None and not host.replace(".", "").isdecimal())


def _literal(host: str) -> str | None:
    """The address that a host is written as, also in the old ways that the C library takes (`127.1`, `0x7f.1`)."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        # HTTP clients hand such a host to the socket without asking a resolver.
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


class CheckedResolver(AbstractResolver):
    """Resolves names and lets only allowed addresses through; the connector connects to just those."""

    def __init__(self, rules: HostRules) -> None:
        self._rules = rules
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = (await self._inner.resolve(host, port, family))[:MAX_ADDRESSES]
        if not self._rules.lists(host, port):
            # One bad address is enough: a name that mixes public and private ones is an attack, not a service.
            for item in found:
                self._rules.check_address(host, item["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


class NamedResolver(AbstractResolver):
    """Resolves the proxies' own names, which may be private, and nothing else."""

    def __init__(self, hosts: frozenset[str]) -> None:
        self._hosts = hosts
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self._hosts:
            raise ForbiddenAddressError(f"{host} is not a proxy")
        return (await self._inner.resolve(host, port, family))[:MAX_ADDRESSES]

    async def close(self) -> None:
        await self._inner.close()
