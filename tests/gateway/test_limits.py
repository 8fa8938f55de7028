"""Overload: places, the queue and its order, rates; every refusal comes at once and says when to come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
from tests.gateway import kit

from paddock_runner.core.gateway_config import Limits
from paddock_runner.gateway.errors import Refusal
from paddock_runner.gateway.limits import MAX_BUCKETS, Buckets, Gate

BUSY = "server busy, please try again.  maximum pending requests exceeded"


async def test_places_are_given_in_order_of_arrival() -> None:
    gate, limits, order = Gate(), Limits(concurrency=1, queue_depth=5), []

    async def work(name: int) -> None:
        await gate.enter(limits)
        order.append(name)
        await asyncio.sleep(0)
        gate.leave()

    await asyncio.gather(*(work(name) for name in range(6)))
    assert order == list(range(6))
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_full_queue_refuses_at_once() -> None:
    gate, limits = Gate(), Limits(concurrency=1, queue_depth=1)
    await gate.enter(limits)
    waiting = asyncio.create_task(gate.enter(limits))
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as caught:
        await gate.enter(limits)
    assert (caught.value.reason, caught.value.headers) == ("queue_full", {"Retry-After": "1"})
    gate.leave()
    await waiting
    assert (gate.running, gate.waiting) == (1, 0)


async def test_a_wait_has_an_end() -> None:
    gate, limits = Gate(), Limits(concurrency=1, queue_depth=1, queue_seconds=0.05)
    await gate.enter(limits)
    with pytest.raises(Refusal) as caught:
        await gate.enter(limits)
    assert caught.value.reason == "queue_timeout"
    assert (gate.running, gate.waiting) == (1, 0)


async def test_who_leaves_the_queue_costs_no_place() -> None:
    gate, limits = Gate(), Limits(concurrency=1, queue_depth=2)
    await gate.enter(limits)
    leaving, staying = (asyncio.create_task(gate.enter(limits)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    gate.leave()
    await staying
    assert leaving.cancelled() or leaving.done()
    assert (gate.running, gate.waiting) == (1, 0)


async def test_a_place_given_to_somebody_who_leaves_goes_to_the_next() -> None:
    gate, limits = Gate(), Limits(concurrency=1, queue_depth=2)
    await gate.enter(limits)
    leaving, staying = (asyncio.create_task(gate.enter(limits)) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave()
    leaving.cancel()
    await staying
    assert (gate.running, gate.waiting) == (1, 0)


async def test_zero_means_no_bound_and_no_waiting() -> None:
    gate = Gate()
    for _ in range(500):
        await gate.enter(Limits(concurrency=0))
    assert gate.running == 500
    with pytest.raises(Refusal):
        await gate.enter(Limits(concurrency=1, queue_depth=0))


def test_a_bucket_refills_with_time() -> None:
    buckets = Buckets()
    assert [buckets.take("k", 60, 0.0, burst=2) for _ in range(3)] == [0, 0, 1]
    assert buckets.take("k", 60, 0.5, burst=2) == pytest.approx(0.5)
    assert buckets.take("k", 60, 1.0, burst=2) == 0
    assert buckets.take("other", 60, 1.0, burst=2) == 0
    assert [buckets.take("k", 60, 1000.0, burst=2) for _ in range(3)] == [0, 0, 1]


def test_buckets_do_not_grow_without_bound() -> None:
    buckets = Buckets()
    for number in range(MAX_BUCKETS + 50):
        buckets.take(str(number), 1, 0.0)
    assert len(buckets._state) == MAX_BUCKETS


@contextlib.asynccontextmanager
async def limited(
    gateway: kit.Running, backend: kit.Backend, path: Path, **limits: float
) -> AsyncGenerator[kit.Running]:
    other = kit.new_key()
    keys = [kit.key_entry(gateway.key), kit.key_entry(other, id="default/second")]
    value = kit.config([kit.model_entry("smollm2", backend.url)], keys, limits=limits)
    async with kit.running(path, value, gateway.key) as instance:
        yield instance


async def test_overload_is_503_at_once_and_the_queue_moves_on(
    gateway: kit.Running, backend: kit.Backend, tmp_path: Path
) -> None:
    release = asyncio.Event()

    async def wait(request: kit.Received, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await kit.replying(json.loads(request.body))(request, writer)

    backend.script = wait
    async with limited(gateway, backend, tmp_path / "l.json", concurrency=2, queueDepth=2) as busy:
        bodies = [{"model": "smollm2", "n": number} for number in range(4)]
        running = [asyncio.create_task(busy.post("/api/chat", body)) for body in bodies]
        await kit.until(lambda: busy.metric("paddock_gateway_queue_depth") == 2)
        assert busy.metric("paddock_gateway_requests_in_flight") == 2
        start = time.monotonic()
        refused = await busy.post("/api/chat", {"model": "smollm2"})
        anthropic = await busy.post("/v1/messages", {"model": "smollm2"})
        assert time.monotonic() - start < 1
        assert (refused.status_code, refused.json()) == (503, {"error": BUSY})
        assert refused.headers["retry-after"] == "1"
        assert anthropic.json()["error"]["type"] == "overloaded_error"
        assert len(backend.requests) == 2
        release.set()
        assert [answer.json() for answer in await asyncio.gather(*running)] == bodies
        assert busy.metric("paddock_gateway_rejected_total", reason="queue_full") == 2
        assert busy.metric("paddock_gateway_queue_time_seconds_count") == 4


async def test_a_client_that_leaves_the_queue_is_forgotten(
    gateway: kit.Running, backend: kit.Backend, tmp_path: Path
) -> None:
    backend.script = kit.streaming(b"{}\n", then="hang")
    async with limited(gateway, backend, tmp_path / "l.json", concurrency=1, queueDepth=1) as busy:
        first = asyncio.create_task(busy.post("/api/chat", {"model": "smollm2"}))
        await kit.until(lambda: len(backend.requests) == 1)
        second = asyncio.create_task(busy.post("/api/chat", {"model": "smollm2"}))
        await kit.until(lambda: busy.metric("paddock_gateway_queue_depth") == 1)
        second.cancel()
        await kit.until(lambda: busy.metric("paddock_gateway_queue_depth") == 0)
        first.cancel()
        await kit.until(lambda: busy.metric("paddock_gateway_requests_in_flight") == 0)
        assert len(backend.requests) == 1


async def test_a_rate_is_per_key(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    async with limited(gateway, backend, tmp_path / "l.json", requestsPerMinute=3) as busy:
        answers: list[httpx.Response] = [await busy.post("/v1/completions", {"model": "smollm2"}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answers[3].headers["retry-after"]) <= 20
        assert (await busy.get("/v1/models")).status_code == 200
        assert busy.metric("paddock_gateway_rejected_total", reason="rate_limited") == 1


async def test_a_smaller_body_limit_holds(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    async with limited(gateway, backend, tmp_path / "l.json", bodyBytes=100) as small:
        assert (await small.post("/api/chat", {"model": "smollm2"})).status_code == 200
        assert (await small.post("/api/chat", {"model": "smollm2", "x": "y" * 100})).status_code == 413
