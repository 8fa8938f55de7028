"""Kill -9 at random moments of a download. `KILL_POINTS=200` runs the whole matrix instead of a sample.

After each kill the store must be valid: no blob with other bytes under its name, and only what was under way is lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from tests.support.download_child import METER
from tests.support.downloads import CHUNK, Pull, child, random_file
from tests.support.fault_server import FaultServer, serving
from tests.support.waiting import until, until_sync

from paddock_runner.core.digest import Digest
from paddock_runner.store import journal
from paddock_runner.store.locks import file_lock
from paddock_runner.store.store import Store

POINTS = int(os.environ.get("KILL_POINTS", "20"))
PER_FILE = 10
CONNECTIONS = 4
SIZE = 64 * CHUNK + 77
SEED = 20


def valid(store: Store, digest: Digest, data: bytes) -> int:
    """Check the store after a kill; returns the bytes that are proved."""
    path = store.blob_path(digest)
    if path.exists():
        assert path.read_bytes() == data
        return len(data)
    partial = store.partial_path(digest)
    if not partial.exists():
        return 0
    content = partial.read_bytes()
    facts = journal.parse(Path(f"{partial}.journal").read_bytes(), digest)
    pieces = journal.latest(facts.pieces) if facts else []
    for piece in pieces:
        assert content[piece.offset : piece.end] == data[piece.offset : piece.end]
    return sum(piece.length for piece in pieces)


@pytest.mark.parametrize("part", range(-(-POINTS // PER_FILE)))
def test_a_kill_costs_a_chunk_per_connection(tmp_path: Path, part: int) -> None:
    luck = random.Random(SEED + part)
    data = random_file(SIZE, part)
    store, meter = Store(tmp_path / "models"), tmp_path / "meter"
    with serving(data) as server:
        server.rate = 30_000_000 / CONNECTIONS
        kills, proved = 0, 0
        while kills < PER_FILE:
            asked, sent = len(server.heads), server.sent + luck.randrange(SIZE // 6)
            with child(store.path, server.url, server.digest, SIZE, CONNECTIONS, meter) as process:
                kills += kill(process, server, sent, luck.random() / 200)
            now = valid(store, server.digest, data)
            assert now >= proved
            taken, most = METER.unpack(meter.read_bytes()) if meter.exists() else (0, 0)
            # Halves of a chunk end where a read ends; a request that is relieved of its rest loses one read.
            bound = CONNECTIONS * (CHUNK + 2 * most) + (len(server.heads) - asked) * most
            assert taken - (now - proved) <= bound
            proved = now
            meter.unlink(missing_ok=True)
            if store.blob_path(server.digest).exists():
                store.blob_path(server.digest).unlink()
                proved = 0
        # What a dead child asked for is sent until the server notices.
        until_sync(lambda: not server.answering, 10)
        server.rate, sent = 0.0, server.sent
        asyncio.run(Pull(store, server.url, server.digest, SIZE).run())
        assert store.blob_path(server.digest).read_bytes() == data
        assert server.sent - sent == SIZE - proved


def kill(process: subprocess.Popen[str], server: FaultServer, sent: int, pause: float) -> int:
    """Kill the child once the server has sent so much, or when it is done; 1 if it was killed."""
    until_sync(lambda: server.sent >= sent or process.poll() is not None, 30)
    time.sleep(pause)
    process.kill()
    return int(process.wait(10) != 0)


async def test_four_processes_fetch_once(server: FaultServer, store: Store) -> None:
    size = len(server.data)
    server.rate = 4_000_000
    with (
        child(store.path, server.url, server.digest, size, 1) as first,
        child(store.path, server.url, server.digest, size, 1) as second,
        child(store.path, server.url, server.digest, size, 1) as third,
        child(store.path, server.url, server.digest, size, 1) as fourth,
    ):
        children = (first, second, third, fourth)
        await until(lambda: all(process.poll() is not None for process in children), 30)
        assert [process.returncode for process in children] == [0] * 4
    assert server.ranges == [None]
    assert server.sent == size
    assert store.blob_path(server.digest).read_bytes() == server.data


async def test_who_waits_sees_progress_and_takes_over_from_the_dead(server: FaultServer, store: Store) -> None:
    server.pause_at = 10 * CHUNK
    size = len(server.data)
    waiting = Pull(store, server.url, server.digest, size)
    with child(store.path, server.url, server.digest, size, 1) as owner:
        await until(server.paused.is_set, 20)
        task = asyncio.create_task(waiting.run())
        await until(lambda: waiting.seen)
        assert 0 < waiting.seen[-1][1] <= size
        assert len(server.heads) == 1
        server.pause_at = None
        owner.kill()
        owner.wait(10)
    await task
    assert store.blob_path(server.digest).read_bytes() == server.data
    assert server.ranges[1] is not None


async def test_a_lock_of_nobody_does_not_hold(server: FaultServer, store: Store) -> None:
    path = store.path / ".paddock" / "locks" / f"{server.digest.hex}.lock"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    await Pull(store, server.url, server.digest).run()
    assert not path.exists()
    with file_lock(path, timeout=1):
        pass
