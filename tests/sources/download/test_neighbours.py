"""Downloads beside collectors, and with a clock that jumps."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from tests.support.downloads import CHUNK, Pull
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

from paddock_runner.store.collect import collect
from paddock_runner.store.store import Store

DAYS = 24 * 3600.0


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> float:
    """The store's clock is so many seconds ahead."""
    seconds = float(request.param)
    clock = SimpleNamespace(time=lambda: time.time() + seconds, monotonic=time.monotonic, sleep=time.sleep)
    for module in ("blobs", "collect"):
        monkeypatch.setattr(f"paddock_runner.store.{module}.time", clock)
    return seconds


@pytest.mark.parametrize("jump", [30 * DAYS, -30 * DAYS], indirect=True)
async def test_a_collector_whose_clock_jumped_takes_nothing_from_a_download(
    server: FaultServer, store: Store, jump: float
) -> None:
    server.pause_at = 10 * CHUNK
    pull = Pull(store, server.url, server.digest, len(server.data))
    task = asyncio.create_task(pull.run())
    await until(server.paused.is_set)
    (store.path / "manifests").mkdir(exist_ok=True)
    await asyncio.to_thread(collect, store, set(), 0.0)
    assert store.partial_path(server.digest).exists()
    server.go.set()
    await task
    assert store.blob_path(server.digest).read_bytes() == server.data
    assert server.sent <= len(server.data) + 10 * CHUNK


@pytest.mark.parametrize("jump", [30 * DAYS], indirect=True)
async def test_what_nobody_downloads_any_more_goes(server: FaultServer, store: Store, jump: float) -> None:
    server.pause_at = 10 * CHUNK
    pull = Pull(store, server.url, server.digest, len(server.data))
    task = asyncio.create_task(pull.run())
    await until(lambda: pull.seen)
    task.cancel()
    await asyncio.wait([task])
    server.go.set()
    assert store.partial_path(server.digest).exists()
    collect(store, set(), 0.0)
    assert list((store.path / "blobs").iterdir()) == []
