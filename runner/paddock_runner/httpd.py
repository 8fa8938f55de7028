"""The HTTP server of `serve` and `gateway`: uvicorn with deadlines of its own and a drain that keeps answering.

Life of a process: bind, lifespan start-up, the `listening` event on stdout, requests; first SIGTERM or SIGINT →
`on_drain` (the application turns new work away, health keeps answering) → requests that were running finish, at
most `drain_seconds` → the socket closes → exit 0. A second signal ends the process at once with exit code 130.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from h11 import IDLE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import HANDLED_SIGNALS

from paddock_runner.tls import Certificates

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_ADDRESS_IN_USE = 4
EXIT_SECOND_SIGNAL = 130

HEAD_SECONDS = 10.0
"""A request's head must arrive within this time of the connection's (or the request's) first moment."""
KEEP_ALIVE_SECONDS = 75
WRITE_STALL_SECONDS = 60.0
"""A reader that does not drain its socket buffer for this long is cut off."""
MAX_HEAD_BYTES = 64 * 1024
MAX_CONNECTIONS = 4096
_BACKLOG = 1024
_LAST_SECONDS = 1
_EVERY_ADDRESS = "::"
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_LINGER_STEP = 0.05

log = logging.getLogger(__name__)


class ListenError(Exception):
    """The address cannot be listened on; `code` is the exit code to use."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def serve(
    app: Any,
    listen: str,
    *,
    drain_seconds: Callable[[], float],
    on_drain: Callable[[], None],
    on_listening: Callable[[str], None] | None = None,
    linger_seconds: float = 0.0,
    certificates: Certificates | None = None,
) -> int:
    """Serve the ASGI `app` until a signal ends the process; returns the exit code.

    `listen` is HOST:PORT, [IPV6]:PORT or fd:N (an inherited socket); [::] takes IPv4 too, port 0 lets the kernel
    choose. `drain_seconds` is asked when the drain begins. `on_drain` runs in the event loop at the first signal,
    `on_listening` gets HOST:PORT right before the `listening` event is printed. While connections are open, the drain's
    wait for running requests begins `linger_seconds` after the signal. With `certificates` it is HTTPS. 4: the address
    is in use; 2: it makes no sense.
    """
    try:
        listener = open_socket(listen)
    except ListenError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    config = settings(app, certificates)
    server = DrainingServer(config, drain_seconds, on_drain, on_listening, linger_seconds, certificates)
    server.run([listener])
    return EXIT_OK


def open_socket(listen: str) -> socket.socket:
    """A bound TCP socket for `listen` (see `serve`). Raises `ListenError`."""
    try:
        return _inherited(listen) if listen.startswith("fd:") else _bound(*_split(listen))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"cannot listen on {listen}: the address is in use; stop the other program or choose another port"
            raise ListenError(message, EXIT_ADDRESS_IN_USE) from error
        raise ListenError(f"cannot listen on {listen}: {error.strerror or error}", EXIT_USAGE) from error


def address_of(listener: socket.socket) -> str:
    """HOST:PORT, or [HOST]:PORT for IPv6, of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _inherited(listen: str) -> socket.socket:
    number = listen.removeprefix("fd:")
    if not number.isdecimal():
        raise ListenError(f"--listen {listen}: expected fd:N with the number of an open socket", EXIT_USAGE)
    return socket.socket(fileno=int(number))


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535 or (":" in host and not bracketed):
        raise ListenError(f"--listen {listen}: expected HOST:PORT, [IPV6]:PORT or fd:N, port 0 to 65535", EXIT_USAGE)
    return host.strip("[]"), int(port)


def _bound(host: str, port: int) -> socket.socket:
    try:
        return _listener(host, port)
    except OSError as error:
        # One image for all clusters: where the kernel has no IPv6, "every address" means IPv4's.
        if host != _EVERY_ADDRESS or error.errno not in _NO_IPV6:
            raise
        log.info("this machine has no IPv6, listening on IPv4 only")
        return _listener("0.0.0.0", port)


def _listener(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == _EVERY_ADDRESS:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def settings(app: Any, certificates: Certificates | None = None) -> uvicorn.Config:
    """uvicorn's configuration for an ASGI application, over TLS with `certificates`."""
    # uvicorn's own notices say nothing that ours do not; what a stranger can trigger must not write a line each.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_context_factory=(lambda *_: certificates.context) if certificates else None,
    )


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with what it lacks: a deadline for heads, one for stalled readers, a cap on connections."""

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        connection = transport.get_extra_info("socket")
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            # Also after a reply is complete, the kernel must not hold its last bytes for a peer that is gone.
            milliseconds = int(WRITE_STALL_SECONDS * 1000)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is IDLE:
            self._start_head_timer()
        else:
            self._stop_head_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is IDLE and self.conn.trailing_data[0]:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(WRITE_STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_stall_timer()
        super().resume_writing()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


class DrainingServer(uvicorn.Server):
    """A uvicorn server whose first signal starts a drain and whose second one ends the process."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain_seconds: Callable[[], float],
        on_drain: Callable[[], None],
        on_listening: Callable[[str], None] | None,
        linger_seconds: float = 0.0,
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__(config)
        self._linger_seconds = linger_seconds
        self._certificates = certificates
        self._drain_seconds = drain_seconds
        self._on_drain = on_drain
        self._on_listening = on_listening
        self._signalled = False
        self._wake: Callable[[], object] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        address = address_of((sockets or [])[0])
        if self._on_listening:
            self._on_listening(address)
        sys.stdout.write(json.dumps({"event": "listening", "address": address}) + "\n")
        sys.stdout.flush()

    async def main_loop(self) -> None:
        """Sleep until the first signal (uvicorn's loop would wake ten times a second), then drain."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(stop.set)
        following = asyncio.create_task(self._certificates.follow()) if self._certificates else None
        if not self._signalled:
            await stop.wait()
        if following:
            following.cancel()
        await self._drain()
        self.should_exit = True

    async def _drain(self) -> None:
        limit = self._drain_seconds()
        log.info("draining", extra={"running": len(self.server_state.tasks), "drain_seconds": limit})
        self._on_drain()
        await self._linger()
        # Only what runs now is waited for: what arrives later is health, metrics and refusals.
        if running := set(self.server_state.tasks):
            _, late = await asyncio.wait(running, timeout=limit)
            if late:
                log.warning("requests were still running when the drain ended", extra={"running": len(late)})

    async def _linger(self) -> None:
        # Every answer from now on ends its connection, so that clients go elsewhere with their next request.
        self.server_state.default_headers.append((b"connection", b"close"))
        end = asyncio.get_running_loop().time() + self._linger_seconds
        while self.server_state.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(_LINGER_STEP)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Our handlers instead of uvicorn's, which raise the signal again after a clean shutdown."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._signalled:
            _end_now()
        self._signalled = True
        self._wake()


def _end_now() -> NoReturn:
    """No cleaning up: the second signal means now, also when the event loop is stuck."""
    os._exit(EXIT_SECOND_SIGNAL)
