"""The engine against a server that does every wrong thing: the right bytes or a typed error, never a wrong blob."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import BinaryIO

import pytest
from tests.support.downloads import CHUNK, FAST, Pull, random_file
from tests.support.fault_server import (
    Behaviour,
    FaultServer,
    body,
    chunked,
    cut,
    drip,
    ignores_range,
    no_length,
    send,
    serving,
    shifted,
    span,
    stall,
    status,
    whole,
)
from tests.support.waiting import until

from paddock_runner.core.digest import Digest
from paddock_runner.sources.errors import NetworkError, UnauthorizedError
from paddock_runner.store.errors import (
    DigestMismatchError,
    InvalidModelError,
    NoSpaceError,
    NotFoundError,
    NotGGUFError,
    ReadOnlyError,
    SizeMismatchError,
    StoreError,
)
from paddock_runner.store.store import Store

PullMaker = Callable[..., Pull]


@pytest.fixture
def pull(server: FaultServer, store: Store) -> PullMaker:
    def make(connections: int = 1, sized: bool = True, **changes: object) -> Pull:
        size = len(server.data) if sized else None
        return replace(Pull(store, server.url, server.digest, size, connections=connections), **changes)  # type: ignore[arg-type]

    return make


def blobs(store: Store) -> set[str]:
    folder = store.path / "blobs"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def content(store: Store, digest: Digest) -> bytes:
    assert store.has_verified(digest)
    assert blobs(store) == {digest.file_name}
    return store.blob_path(digest).read_bytes()


@pytest.mark.parametrize("sized", [True, False])
async def test_one_plain_request_when_one_connection_is_enough(
    server: FaultServer, store: Store, pull: PullMaker, sized: bool
) -> None:
    asked = pull(sized=sized)
    blob = await asked.run()
    assert (blob.digest, blob.size, blob.created) == (server.digest, len(server.data), True)
    assert content(store, server.digest) == server.data
    assert server.ranges == [None]
    assert server.heads[0]["Accept-Encoding"] == "identity"
    assert asked.seen[-1] == (server.digest, len(server.data), len(server.data))
    again = await pull(sized=sized).run()
    assert not again.created
    assert len(server.ranges) == 1


async def test_a_slow_link_gets_more_connections(server: FaultServer, store: Store, pull: PullMaker) -> None:
    server.rate = 1_000_000
    # Several pieces of the server for each look, or their grain would be taken for a change of speed.
    await pull(connections=4, limits=replace(FAST, tick_seconds=0.2)).run()
    assert content(store, server.digest) == server.data
    assert len(server.ranges) > 3
    assert all(asked is None or asked.startswith("bytes=") for asked in server.ranges)
    # What the first connection had under way when it was relieved of its rest is all that is sent twice.
    assert server.sent < 3 * len(server.data)


async def test_small_and_empty_files(store: Store) -> None:
    for size in (4, CHUNK, CHUNK + 1):
        with serving(random_file(size)) as server:
            await Pull(store, server.url, server.digest, size, connections=4).run()
            assert store.blob_path(server.digest).read_bytes() == server.data
            assert server.ranges == [None]
    with serving(b"") as server:
        blob = await Pull(store, server.url, server.digest, 0).run()
        assert (blob.size, server.ranges) == (0, [])
        store.blob_path(server.digest).unlink()
        assert (await Pull(store, server.url, server.digest).run()).size == 0


SCRIPTS: dict[str, list[Behaviour]] = {
    "cut": [cut(100_000), whole],
    "reset": [cut(100_000, reset=True), whole],
    "cut again and again": [cut(30_000)] * 60 + [whole],
    "cut before the first byte": [cut(0), cut(0), whole],
    "503": [status(503), status(503), whole],
    "429 with Retry-After": [status(429, Retry_After="0"), whole],
    "403 and 404 in the middle": [cut(100_000), status(403), status(404), whole],
    "500 in the middle": [cut(100_000), status(500), whole],
    "ranges ignored": [cut(100_000), ignores_range, whole],
    "ranges never": [cut(100_000), ignores_range],
    "range off by one": [cut(100_000), shifted(1), shifted(1), ignores_range],
    "range off by one once": [cut(100_000), shifted(1), whole],
    "range off by one, not told": [cut(100_000), shifted(1, honest=False), whole],
    "206 without a range": [cut(100_000), status(206), whole],
    "416 in the middle": [cut(100_000), status(416), whole],
    "stall": [stall(100_000), whole],
    "stall at once": [stall(0), whole],
    "drip": [drip, whole],
    "no length": [no_length],
    "chunked": [chunked],
    "lying length": [lambda server, request: send(server, request, 200, server.data[:5000], 5000), whole],
    "one wrong body": [body(b"GGUF" + b"\0" * (20 * CHUNK + 119)), whole],
    "a changed file": [
        cut(100_000),
        lambda server, request: (setattr(server, "etag", '"b"'), whole(server, request))[1],
        whole,
    ],
}


@pytest.mark.parametrize(("connections", "sized"), [(1, False), (4, True)])
@pytest.mark.parametrize("name", SCRIPTS)
async def test_faults_that_are_survived(
    server: FaultServer, store: Store, pull: PullMaker, name: str, sized: bool, connections: int
) -> None:
    server.script, server.etag = list(SCRIPTS[name]), '"a"'
    limits = replace(FAST, minimum_rate=100_000)
    await pull(connections, sized, limits=limits).run()
    assert content(store, server.digest) == server.data


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize(
    ("script", "error", "match", "retryable"),
    [
        ([cut(100_000), cut(0)], NetworkError, "ended after|ayload", True),
        ([status(500)], NetworkError, "500", True),
        ([status(429)], NetworkError, "429", True),
        ([status(400)], NetworkError, "400", False),
        ([status(401)], UnauthorizedError, "401", False),
        ([status(403)], UnauthorizedError, "403", False),
        ([status(404)], NotFoundError, "404", False),
        ([cut(100_000), status(404)], NotFoundError, "404", False),
        ([status(200, Content_Encoding="gzip")], NetworkError, "Content-Encoding", False),
        ([body(b"<html>please log in</html>", "text/html")], NotGGUFError, "text/html", False),
        ([body(b"GGUF" + b"\0" * 100)], SizeMismatchError, "must have", False),
        ([body(b"GGUF" + b"\0" * (20 * CHUNK + 119))], DigestMismatchError, "hash to", False),
        ([cut(100_000), status(403)], UnauthorizedError, "403", False),
        ([stall(5000), stall(0)], NetworkError, "sent nothing for", True),
    ],
)
async def test_faults_that_are_told(
    server: FaultServer,
    store: Store,
    pull: PullMaker,
    script: list[Behaviour],
    error: type[StoreError],
    match: str,
    retryable: bool,
    connections: int,
) -> None:
    server.script = script
    with pytest.raises(error, match=match) as caught:
        await pull(connections).run()
    assert caught.value.retryable is retryable
    assert not {name for name in blobs(store) if name.startswith("sha256-")}


async def test_wrong_bytes_are_fetched_twice_and_forgotten(server: FaultServer, store: Store, pull: PullMaker) -> None:
    with pytest.raises(DigestMismatchError):
        await pull(digest=Digest("0" * 64)).run()
    assert server.ranges == [None, None]
    assert blobs(store) == set()


async def test_a_shorter_promise_is_refused_and_a_longer_one_too(
    server: FaultServer, store: Store, pull: PullMaker
) -> None:
    for size in (len(server.data) - 1, len(server.data) + 1):
        with pytest.raises(SizeMismatchError):
            await pull(size=size).run()
    assert blobs(store) == set()


async def test_a_body_that_never_ends_is_left(server: FaultServer, store: Store, pull: PullMaker) -> None:
    server.script = [lambda state, request: send(state, request, 200, state.data * 50, -1)]
    await pull(connections=1).run()
    assert content(store, server.digest) == server.data
    with pytest.raises(NetworkError, match="more than 1000 bytes") as caught:
        await pull(1, sized=False, digest=Digest("1" * 64), limits=replace(FAST, maximum_bytes=1000)).run()
    assert not caught.value.retryable


async def test_a_promise_larger_than_the_disk_is_refused_at_once(
    server: FaultServer, store: Store, pull: PullMaker
) -> None:
    server.script = [lambda state, request: send(state, request, 200, state.data, 1 << 49)]
    with pytest.raises(NoSpaceError):
        await pull(sized=False).run()
    with pytest.raises(NoSpaceError):
        await pull(size=1 << 49).run()
    assert blobs(store) == set()


async def test_the_content_check_refuses_good_bytes(server: FaultServer, store: Store, pull: PullMaker) -> None:
    seen = []

    def check(stream: BinaryIO) -> None:
        seen.append(stream.read())
        raise InvalidModelError("no")

    with pytest.raises(InvalidModelError):
        await pull(check=check).run()
    assert seen == [server.data]
    assert blobs(store) == set()


async def test_the_next_process_continues_at_the_byte(server: FaultServer, store: Store, pull: PullMaker) -> None:
    server.script = [cut(100_000), status(503)]
    with pytest.raises(NetworkError, match="503"):
        await pull().run()
    server.script = [whole]
    await pull(sized=False).run()
    assert server.ranges[0] is None
    assert server.ranges[-1] == "bytes=100000-"
    assert content(store, server.digest) == server.data


async def test_a_cancelled_download_continues(server: FaultServer, store: Store, pull: PullMaker) -> None:
    server.pause_at = 10 * CHUNK
    asked = pull(connections=2)
    task = asyncio.create_task(asked.run())
    await until(lambda: asked.seen and asked.seen[-1][1] >= 5 * CHUNK)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert blobs(store) == {f"partial-{server.digest.hex}", f"partial-{server.digest.hex}.journal"}
    with store.resumable(server.digest) as partial:
        assert partial.done >= 5 * CHUNK
    server.pause_at, before = None, len(server.heads)
    server.go.set()
    await pull().run()
    assert content(store, server.digest) == server.data
    assert None not in server.ranges[before:]


async def test_only_the_stalled_range_is_asked_for_again(server: FaultServer, store: Store, pull: PullMaker) -> None:
    stalled = threading.Event()

    def answer(state: FaultServer, request: BaseHTTPRequestHandler) -> None:
        start, _, ranged = span(state, request)
        if ranged and start and not stalled.is_set():
            stalled.set()
            stall(1000)(state, request)
        else:
            whole(state, request)

    server.script, server.rate = [answer], 2_000_000
    await pull(connections=2).run()
    assert stalled.is_set()
    assert content(store, server.digest) == server.data


async def test_one_connection_goes_on_where_more_are_refused(
    server: FaultServer, store: Store, pull: PullMaker
) -> None:
    busy = threading.Semaphore(1)
    refused = []

    def answer(state: FaultServer, request: BaseHTTPRequestHandler) -> None:
        if not busy.acquire(blocking=False):
            refused.append(1)
            return status(429 if len(refused) % 2 else 403)(state, request)
        try:
            return whole(state, request)
        finally:
            busy.release()

    # The server notices only after a while that a connection was closed.
    server.script, server.rate = [answer], 2_000_000
    await pull(connections=4, limits=replace(FAST, attempts=6, pause_seconds=0.05)).run()
    assert refused
    assert content(store, server.digest) == server.data


async def test_retry_after_is_kept(server: FaultServer, store: Store, pull: PullMaker) -> None:
    server.script = [status(503, Retry_After="1"), whole]
    began = time.monotonic()
    await pull().run()
    assert time.monotonic() - began >= 1
    assert content(store, server.digest) == server.data


async def test_the_bandwidth_limit_holds(server: FaultServer, store: Store, pull: PullMaker) -> None:
    began = time.monotonic()
    await pull(connections=4, rate=str(len(server.data))).run()
    assert 0.8 < time.monotonic() - began < 5
    assert content(store, server.digest) == server.data


async def test_without_a_digest_the_hash_names_the_blob(server: FaultServer, store: Store, pull: PullMaker) -> None:
    for script in ([whole], [chunked], [no_length]):
        server.script = list(script)
        for sized in (True, False):
            blob = await pull(digest=None, sized=sized).run()
            assert blob.digest == server.digest
    assert content(store, server.digest) == server.data


async def test_without_a_digest_only_a_strong_etag_allows_to_continue(
    server: FaultServer, store: Store, pull: PullMaker
) -> None:
    server.script, server.etag = [cut(100_000), whole], '"a"'
    assert (await pull(digest=None).run()).digest == server.digest
    # What lay in a buffer when the connection broke is lost.
    assert server.ranges in ([None, "bytes=65536-"], [None, "bytes=100000-"])
    assert server.heads[1]["If-Range"] == '"a"'
    server.heads.clear()
    server.script, server.etag = [cut(100_000), ignores_range], '"a"'
    assert (await pull(digest=None).run()).digest == server.digest
    server.heads.clear()
    server.script, server.etag = [cut(100_000), whole], 'W/"a"'
    assert (await pull(digest=None).run()).digest == server.digest
    assert server.ranges == [None, None]


@pytest.mark.parametrize("script", [[cut(50_000)], [body(b"GGUF", length=4)], [body(b"<html>")]])
async def test_without_a_digest_short_bodies_are_refused(
    server: FaultServer, store: Store, pull: PullMaker, script: list[Behaviour]
) -> None:
    server.script = script
    with pytest.raises(StoreError):
        await pull(digest=None).run()
    assert blobs(store) == set()


async def test_a_blob_without_a_marker_is_hashed_and_kept(server: FaultServer, store: Store, pull: PullMaker) -> None:
    (store.path / "blobs").mkdir(parents=True)
    path = store.blob_path(server.digest)
    path.write_bytes(server.data)
    assert not (await pull().run()).created
    path.write_bytes(server.data[:-1] + b"?")
    assert (await pull().run()).created
    assert content(store, server.digest) == server.data
    assert len(server.ranges) == 1


async def test_a_read_only_store_serves_what_it_has(server: FaultServer, store: Store, pull: PullMaker) -> None:
    closed = Store(store.path, read_only=True)
    with pytest.raises(ReadOnlyError):
        await pull(store=closed).run()
    await pull().run()
    assert not (await pull(store=closed).run()).created
    assert len(server.ranges) == 1


async def test_a_partial_of_old_bytes_costs_one_clean_retry(server: FaultServer, store: Store, pull: PullMaker) -> None:
    with store.resumable(server.digest, len(server.data)) as partial:
        partial.write(0, [b"GGUF" + b"\0" * 996])
    await pull().run()
    assert server.ranges == ["bytes=1000-", None]
    assert content(store, server.digest) == server.data
