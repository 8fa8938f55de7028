"""Listening sockets of gateways: bound here so that "address in use" is one clear line and a restart keeps the port.

Called by `up` (the `--listen` address) and `controller` (the addresses of further Endpoints).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass

BACKLOG = 1024
"""Connections that wait while a gateway starts again."""


class ListenError(Exception):
    """An address that cannot be listened on; the message says which and why. `in_use`: somebody else has it."""

    def __init__(self, message: str, in_use: bool = False) -> None:
        super().__init__(message)
        self.in_use = in_use


@dataclass(frozen=True, slots=True)
class Address:
    """`host` is a name or an address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """`HOST:PORT`, `[V6]:PORT` or `:PORT` (all interfaces). Raises ListenError for anything else."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in bare and bare == host):
        raise ListenError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:11434")
    return Address(bare or "0.0.0.0", int(port))


class Listener:
    """A bound, listening socket; `url` is what a client on this machine types."""

    def __init__(self, bound: socket.socket, host: str) -> None:
        self._socket = bound
        self.address = Address(host, bound.getsockname()[1])

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address.host, self.address.host)
        return f"http://{Address(host, self.address.port)}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self._socket.getsockname()[0].partition("%")[0]).is_loopback

    def close(self) -> None:
        self._socket.close()


def bind(address: Address) -> Listener:
    """Listen on `address`. Raises ListenError, `in_use` when another process has it."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(target)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise _refused(address, error) from None
    return Listener(bound, address.host)


def _refused(address: Address, error: OSError) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"{address} is in use by another process; stop it, or choose another --listen", True)
    return ListenError(f"cannot listen on {address}: {os.strerror(error.errno or 0)}")
