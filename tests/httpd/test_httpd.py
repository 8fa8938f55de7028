"""The HTTP server under the programs: addresses, deadlines for heads and readers, the cap on connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.gateway.kit import InLoop, until

from paddock_runner import httpd


class App:
    """Answers `ok`; /flood sends without end and records how it ended."""

    def __init__(self) -> None:
        self.left = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] == "/flood" and not self.left:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    self.left = (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def served() -> AsyncGenerator[tuple[App, int]]:
    async with serving() as (app, port, _):
        yield app, port


@contextlib.asynccontextmanager
async def serving() -> AsyncGenerator[tuple[App, int, InLoop]]:
    app = App()
    listener = httpd.open_socket("127.0.0.1:0")
    port = listener.getsockname()[1]
    server = InLoop(httpd.settings(app), lambda: 1.0, lambda: None, None)
    task = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started)
    yield app, port, server
    server.handle_exit(15, None)
    await asyncio.wait_for(task, 5)


async def ended(port: int, data: bytes) -> tuple[bytes, float]:
    """What came back until the server closed the connection, and after how many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = time.monotonic()
    writer.write(data)
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := await asyncio.wait_for(reader.read(65536), 5):
            received += part
    writer.close()
    return received, time.monotonic() - start


@pytest.mark.parametrize(
    "data", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET"]
)
async def test_a_head_must_arrive_in_time(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(httpd, "HEAD_SECONDS", 0.2)
    async with served() as (_, port):
        received, seconds = await ended(port, data)
    assert received.count(b"HTTP/1.1 200") == data.count(b"\r\n\r\n")
    assert 0.15 < seconds < 2


async def test_a_connection_between_requests_lives_longer_than_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "HEAD_SECONDS", 0.2)
    async with served() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 2)
            await asyncio.sleep(0.3)
        writer.close()


async def test_a_reader_that_stalls_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "WRITE_STALL_SECONDS", 0.3)
    async with served() as (app, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: app.left, 3)


async def test_the_kernel_gives_up_a_peer_that_is_gone() -> None:
    async with serving() as (_, port, server):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: bool(server.server_state.connections))
        (protocol,) = server.server_state.connections
        connection = protocol.transport.get_extra_info("socket")
        milliseconds = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert milliseconds == httpd.WRITE_STALL_SECONDS * 1000
        writer.close()


async def test_connections_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "MAX_CONNECTIONS", 2)
    async with served() as (_, port):
        first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        _, seconds = await ended(port, b"")
        assert seconds < 1
        for reader, writer in first:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"200" in await asyncio.wait_for(reader.read(), 2)
            writer.close()


async def test_nothing_is_told_about_the_server() -> None:
    async with served() as (_, port):
        received, _ = await ended(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in received.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
    assert names == {b"transfer-encoding", b"connection"}


@pytest.mark.parametrize(
    ("listen", "address"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("localhost:0", "127.0.0.1")]
)
def test_addresses(listen: str, address: str) -> None:
    if listen.startswith("[") and not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with httpd.open_socket(listen) as listener:
        host, _, port = httpd.address_of(listener).rpartition(":")
        assert host in (address, "[::1]")
        assert int(port) > 0


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1", ":80", "127.0.0.1:http", "127.0.0.1:65536", "::1:80", "fd:", "fd:x", "fd:-1", "fd:9999"]
)
def test_bad_addresses_are_usage_errors(listen: str) -> None:
    with pytest.raises(httpd.ListenError) as caught:
        httpd.open_socket(listen)
    assert caught.value.code == httpd.EXIT_USAGE
    assert listen in str(caught.value)


def test_an_address_in_use_has_its_own_code() -> None:
    with httpd.open_socket("127.0.0.1:0") as taken, pytest.raises(httpd.ListenError) as caught:
        httpd.open_socket(httpd.address_of(taken))
    assert caught.value.code == httpd.EXIT_ADDRESS_IN_USE


def test_every_address_means_both_families() -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with httpd.open_socket("[::]:0") as listener:
        assert httpd.address_of(listener).startswith("[::]:")
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=5):
                pass


@pytest.mark.parametrize("missing", ["family", "address"])
def test_every_address_without_ipv6_means_ipv4(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    class Socket(socket.socket):
        """A kernel without IPv6 (no such family), or with IPv6 switched off (no address to bind to)."""

        def __init__(self, family: int = socket.AF_INET, *more: int) -> None:
            if missing == "family" and family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *more)

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            super().bind(address)

    if missing == "address" and not _has_ipv6():
        pytest.skip("this machine has no IPv6 to switch off")
    monkeypatch.setattr(httpd.socket, "socket", Socket)
    with httpd.open_socket("[::]:0") as listener:
        assert httpd.address_of(listener).startswith("0.0.0.0:")
    with pytest.raises(httpd.ListenError):
        httpd.open_socket("[::1]:0")


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
