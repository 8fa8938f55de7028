"""Who is asked: addresses from slices and names, least open requests, ejection and its end, the bounded hold."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from tests.gateway import cluster_kit, kit
from tests.gateway.cluster_kit import SERVICE, endpoint, slice_object

from paddock_runner.core.gateway_config import Limits, Model, parse
from paddock_runner.gateway.backends import Backends
from paddock_runner.gateway.cluster.slices import SliceSource, addresses, read
from paddock_runner.gateway.directory import Directory
from paddock_runner.gateway.dns import follow_names, system_resolve
from paddock_runner.gateway.errors import Refusal
from paddock_runner.gateway.holds import Holds

A, B, C = "http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://10.0.0.3:8080"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_one_with_the_fewest_open_requests_is_asked(clock: Clock) -> None:
    backends = Backends(clock)
    with backends.using(A), backends.using(A), backends.using(B):
        assert backends.choose([A, B, C]) == C
        with backends.using(C):
            assert {backends.choose([A, B, C]) for _ in range(6)} == {B, C}
    assert {backends.choose([A, B, C]) for _ in range(6)} == {A, B, C}


def test_a_failed_one_is_ejected_for_longer_each_time(clock: Clock) -> None:
    backends, spans = Backends(clock), []
    for _ in range(8):
        backends.failed(A)
        start = clock.now
        while backends.ejected([A]):
            assert backends.choose([A, B]) == B
            clock.now += 0.5
        spans.append(clock.now - start)
    assert spans == [1, 2, 4, 8, 16, 30, 30, 30]
    backends.worked(A)
    backends.failed(A)
    clock.now += 1
    assert backends.ejected([A]) == 0


def test_one_that_is_alone_is_tried_again_after_a_short_pause(clock: Clock) -> None:
    backends = Backends(clock)
    for pause in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        backends.failed(A)
        assert backends.choose([A]) is None
        assert backends.pause([A]) == pytest.approx(pause)
        assert backends.soonest([A]) == A
        clock.now += pause + 0.001
        assert backends.choose([A]) == A
    assert backends.choose([]) is None
    assert backends.pause([]) == float("inf")


def test_one_that_declined_rests_and_one_that_left_is_forgotten(clock: Clock) -> None:
    backends = Backends(clock)
    backends.rest(A, 3600)
    assert backends.pause([A]) == 1.0
    assert backends.choose([A, B]) == B
    backends.failed(B)
    backends.keep({A})
    assert backends.choose([B]) == B
    assert backends.choose([A]) is None


def test_tried_ones_come_last(clock: Clock) -> None:
    backends = Backends(clock)
    assert {backends.choose([A, B], [A]) for _ in range(4)} == {B}
    assert backends.choose([A], [A]) == A


def test_a_slice_gives_its_ready_addresses() -> None:
    value = slice_object(
        endpoint("10.0.0.1", ready=True),
        endpoint("10.0.0.2", ready=False),
        endpoint("10.0.0.3", ready=True, terminating=True),
        {"addresses": ["10.0.0.4"]},
        {"addresses": []},
        {"addresses": ["not an address/../x"]},
        port=8080,
    )
    assert addresses([read(value)]) == {SERVICE: ("http://10.0.0.1:8080", "http://10.0.0.4:8080")}


def test_a_pod_with_two_families_counts_once() -> None:
    pods = [{**endpoint(address), "targetRef": {"uid": "u1"}} for address in ("fd00::1", "10.0.0.1")]
    six = slice_object(pods[0], endpoint("fd00::2"), port=8080, name="six", addressType="IPv6")
    four = slice_object(pods[1], port=8080, name="four")
    assert addresses([read(six), read(four)]) == {SERVICE: ("http://10.0.0.1:8080", "http://[fd00::2]:8080")}


@pytest.mark.parametrize("changes", [{"ports": []}, {"ports": [{"name": "web", "port": 1}]}, {"addressType": "FQDN"}])
def test_a_slice_that_is_of_no_use(changes: dict[str, Any]) -> None:
    value = slice_object(endpoint("10.0.0.1"), port=8080) | changes
    assert addresses([read(value)]).get(SERVICE, ()) == ()
    assert read({"metadata": None, "endpoints": None, "ports": None}).urls == ()


def test_slices_of_one_service_add_up_and_go() -> None:
    seen: list[Any] = []
    source = SliceSource(seen.append)
    source.replaced([slice_object(endpoint("10.0.0.1"), port=8080, name="one")])
    source.changed("ADDED", slice_object(endpoint("10.0.0.2"), port=8080, name="two"))
    source.changed("DELETED", slice_object(port=8080, name="one"))
    source.changed("DELETED", slice_object(port=8080, name="two"))
    assert [value.get(SERVICE) for value in seen] == [(A,), (A, B), (B,), None]


def model(**changes: Any) -> Model:
    entry = {**cluster_kit.service_model(), **changes}
    return parse(json.dumps(kit.config([entry], [])).encode()).models[0]


async def test_names_serve_until_slices_are_heard() -> None:
    directory, wanted, rounds = Directory(), model(), 0

    async def resolve(host: str) -> list[str]:
        nonlocal rounds
        rounds += 1
        assert host == f"{SERVICE}.test.svc"
        if rounds == 2:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        if rounds == 3:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return ["fd00::1", "10.0.0.1"]

    task = asyncio.create_task(follow_names(directory, lambda: [wanted], resolve, 0.01))
    await kit.until(lambda: directory.urls(wanted) == ("http://10.0.0.1:8080", "http://[fd00::1]:8080"))
    await kit.until(lambda: rounds >= 3 and directory.urls(wanted) == ())
    await kit.until(lambda: bool(directory.urls(wanted)))
    directory.take_slices({SERVICE: (B,)})
    assert directory.urls(wanted) == (B,)
    async with asyncio.timeout(1):
        await task
    directory.take_slices({})
    assert directory.urls(wanted) == ()


async def test_the_system_resolves_numbers_and_refuses_nonsense() -> None:
    assert await system_resolve("127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(socket.gaierror):
        await system_resolve("no-such-host.invalid")


def holds(urls: tuple[str, ...] = ()) -> tuple[Holds, Directory, Backends]:
    directory, backends = Directory(), Backends(time.monotonic)
    directory.take_slices({SERVICE: urls})
    return Holds(directory, backends), directory, backends


async def test_a_hold_ends_when_somebody_comes() -> None:
    waiting, directory, _ = holds()
    task = asyncio.create_task(waiting.wait(model(), Limits(), time.monotonic() + 5))
    await kit.until(lambda: waiting.held == 1)
    directory.take_slices({SERVICE: (A,)})
    async with asyncio.timeout(1):
        await task
    assert waiting.held == 0


async def test_a_hold_ends_when_a_pause_does() -> None:
    waiting, _, backends = holds((A,))
    backends.failed(A)
    start = time.monotonic()
    await waiting.wait(model(), Limits(), start + 5)
    assert 0.05 < time.monotonic() - start < 1.0


async def test_holds_are_bounded() -> None:
    waiting, _, _ = holds()
    deadline = time.monotonic() + 5
    tasks = [asyncio.create_task(waiting.wait(model(), Limits(queue_depth=2), deadline)) for _ in range(2)]
    await kit.until(lambda: waiting.held == 2)
    with pytest.raises(Refusal) as caught:
        await waiting.wait(model(), Limits(queue_depth=2), deadline)
    assert (caught.value.reason, caught.value.headers) == ("queue_full", {"Retry-After": "1"})
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert waiting.held == 0


@pytest.mark.parametrize("changes", [{"ready": False}, {}])
async def test_who_is_not_waited_for(changes: dict[str, Any]) -> None:
    """A Model without a pinned digest, and an Endpoint without a queue."""
    waiting, _, _ = holds()
    limits = Limits(queue_depth=64 if changes else 0)
    with pytest.raises(Refusal) as caught:
        await waiting.wait(model(**changes), limits, time.monotonic() + 5)
    assert caught.value.reason == "no_backend"


@pytest.mark.parametrize("bad", ["", "UPPER", "a.b", "-a", "a" * 64, 5])
def test_a_service_is_a_label(bad: object) -> None:
    with pytest.raises(ValueError, match=r"models\[0\].service"):
        model(service=bad)


async def test_a_runner_that_does_not_know_the_endpoint_yet_is_waited_for(backend: kit.Backend, tmp_path: Path) -> None:
    async def unknown_first(request: kit.Received, writer: asyncio.StreamWriter) -> None:
        first = len(backend.requests) == 1
        await kit.replying({"error": "unauthorized"} if first else {"ok": True}, 401 if first else 200)(request, writer)

    backend.script = unknown_first
    key = kit.new_key()
    value = kit.config([cluster_kit.service_model()], [kit.key_entry(key)])
    async with kit.running(tmp_path / "g.json", value, key) as gateway:
        gateway.gateway.directory.take_slices({SERVICE: (backend.url,)})
        assert (await gateway.post("/api/chat", {"model": "smollm2"})).status_code == 200
        assert gateway.metric("paddock_gateway_retries_total", reason="unauthorized") == 1


async def test_one_that_kills_its_runners_is_not_sent_for_ever(backend: kit.Backend, tmp_path: Path) -> None:
    async def die(_request: kit.Received, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    backend.script = die
    key = kit.new_key()
    value = kit.config([cluster_kit.service_model()], [kit.key_entry(key)])
    async with kit.running(tmp_path / "g.json", value, key) as gateway:
        gateway.gateway.directory.take_slices({SERVICE: (backend.url,)})
        response = await gateway.post("/api/chat", {"model": "smollm2"})
    assert (response.status_code, len(backend.requests)) == (502, 2)
    assert "stopped before it answered" in response.json()["error"]
