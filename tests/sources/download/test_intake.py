"""The body of an answer straight into memory: what came is there to the byte, and the connection is used again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.support.authority import Authority
from tests.support.downloads import CHUNK, FAST, Pull
from tests.support.fault_server import FaultServer, cut, stall, whole

from paddock_runner.sources.download import requests
from paddock_runner.sources.download.intake import Intake, take_over
from paddock_runner.store.direct import BLOCK, Buffers
from paddock_runner.store.store import Store


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as opened:
        yield opened


def count(received: int) -> None:
    assert received > 0


async def begin(response: aiohttp.ClientResponse, body: int) -> tuple[bytes, Intake]:
    """The first bytes, which the client read, and who reads the others."""
    first = await response.content.readany()
    intake = take_over(response, body, CHUNK, count)
    assert intake is not None
    return first, intake


@pytest.mark.parametrize("offset", [0, 1, BLOCK - 1, BLOCK])
async def test_pieces_end_where_blocks_do(server: FaultServer, session: aiohttp.ClientSession, offset: int) -> None:
    buffers = Buffers(CHUNK)
    async with session.get(server.url) as response:
        first, intake = await begin(response, len(server.data))
        pieces = [bytes(piece) async for piece in intake.pieces(buffers, offset, memoryview(first))]
        assert b"".join(pieces) == server.data
        at = offset
        for piece in pieces[:-1]:
            at += len(piece)
            assert at % BLOCK == 0
        intake.hand_back(response)
    peers = set[object]()
    for _ in range(2):
        async with session.get(server.url, headers={"Range": "bytes=5-9"}) as response:
            assert response.connection is not None
            assert response.connection.transport is not None
            peers.add(response.connection.transport.get_extra_info("sockname"))
            assert await response.read() == server.data[5:10]
    assert len(peers) == 1
    assert server.connections == 1


async def test_a_connection_that_ends_too_early(server: FaultServer, session: aiohttp.ClientSession) -> None:
    server.script = [cut(5 * CHUNK + 7), whole]
    came = b""
    async with session.get(server.url) as response:
        first, intake = await begin(response, len(server.data))
        with pytest.raises(aiohttp.ClientPayloadError, match="too early"):  # noqa: PT012 (a loop is one)
            async for piece in intake.pieces(Buffers(CHUNK), 0, memoryview(first)):
                came += piece
        intake.hand_back(response)
    assert came == server.data[: 5 * CHUNK + 7]
    async with session.get(server.url) as response:
        assert await response.read() == server.data


async def test_what_came_before_a_cancellation_is_there(server: FaultServer, session: aiohttp.ClientSession) -> None:
    server.script = [stall(5 * CHUNK + 7)]
    came = b""
    async with session.get(server.url) as response:
        first, intake = await begin(response, len(server.data))
        received = len(first)
        with pytest.raises(TimeoutError):  # noqa: PT012
            async with asyncio.timeout(0.5):
                async for piece in intake.pieces(Buffers(CHUNK), 0, memoryview(first)):
                    came += piece
        came += intake.rest()
        assert not intake.rest()
    server.go.set()
    assert received < len(came) == 5 * CHUNK + 7
    assert came == server.data[: len(came)]


async def test_behind_tls(server: FaultServer, tmp_path: Path) -> None:
    authority = Authority.make()
    for path, pem in zip((tmp_path / "crt", tmp_path / "key"), authority.issue("127.0.0.1"), strict=True):
        path.write_bytes(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(server.data) + server.data)
        assert head.startswith(b"GET /")
        await writer.drain()
        writer.close()

    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as listener:
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        async with aiohttp.ClientSession() as session, session.get(url, ssl=trusting) as response:
            first, intake = await begin(response, len(server.data))
            pieces = [bytes(piece) async for piece in intake.pieces(Buffers(CHUNK), 0, memoryview(first))]
            assert b"".join(pieces) == server.data
            intake.hand_back(response)


async def test_what_the_client_has_to_parse_stays_with_it(server: FaultServer, session: aiohttp.ClientSession) -> None:
    size = len(server.data)
    async with session.get(server.url) as response:
        await response.content.readany()
        assert take_over(response, size - 1, CHUNK, count) is None, "another length than the server's"
        assert take_over(response, size, size, count) is None, "too little is left"
    async with session.get(server.url) as response:
        await response.read()
        assert take_over(response, size, 0, count) is None, "nothing is left"


async def test_segments_of_a_download_share_a_connection(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Intake | None] = []

    def spy(*arguments: object) -> Intake | None:
        taken.append(take_over(*arguments))  # type: ignore[arg-type]
        return taken[-1]

    monkeypatch.setattr(requests, "take_over", spy)
    server.rate = 40 * CHUNK
    await Pull(store, server.url, server.digest, len(server.data), connections=2, limits=FAST).run()
    assert store.blob_path(server.digest).read_bytes() == server.data
    assert any(taken)
    assert server.connections <= 3 < len(server.heads)
