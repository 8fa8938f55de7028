"""The queue and the workers on a clock that jumps: no test here waits in real time."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from paddock_operator.controller import Controller
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.health import problem
from paddock_operator.metrics import Metrics
from paddock_operator.workqueue import WorkQueue


class JumpingLoop(asyncio.SelectorEventLoop):
    """Instead of sleeping until the next timer, the clock is put forward to it."""

    def __init__(self) -> None:
        self.offset = 0.0
        super().__init__(_Jumper(self))

    def time(self) -> float:
        return self.offset


class _Jumper(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is ready and nothing is planned")
        self._loop.offset += max(0.0, timeout)
        return super().select(0)


def jump(test: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function on a jumping clock."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(test())  # type: ignore[arg-type]


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_key_waits_once_and_comes_in_order() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        for key in ("a", "b", "a", "c", "b"):
            queue.add(key)
        assert queue.depth == 3
        assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]

    jump(run)


def test_rung_while_busy_it_runs_again_once() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        assert queue.depth == 0
        queue.done("a")
        assert queue.depth == 1
        queue.done(await queue.get())
        assert queue.depth == 0

    jump(run)


def test_the_earlier_of_two_delays_counts() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a", 60)
        queue.add("a", 5)
        queue.add("a", 30)
        began = now()
        queue.done(await queue.get())
        assert now() - began == pytest.approx(5)
        await asyncio.sleep(100)
        assert queue.depth == 0

    jump(run)


def test_a_ring_overtakes_a_delay_and_takes_its_place() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a", 60)
        queue.add("a")
        began = now()
        queue.done(await queue.get())
        assert now() == began
        await asyncio.sleep(100)
        assert queue.depth == 0

    jump(run)


def test_forgotten_keys_do_not_come() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a", 5)
        queue.forget("a")
        await asyncio.sleep(10)
        assert queue.depth == 0

    jump(run)


def test_the_age_of_the_oldest_key() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        assert queue.oldest_seconds() == 0
        queue.add("a")
        await asyncio.sleep(7)
        queue.add("b")
        assert queue.oldest_seconds() == pytest.approx(7)

    jump(run)


def key(name: str) -> Ref:
    return Ref("Model", "default", name)


def controller(reconcile: Callable[[Ref], Awaitable[float | None]], workers: int = 1) -> Controller:
    made = Controller(reconcile, workers, 600, Metrics())
    made.start()
    return made


def test_a_failing_key_waits_longer_each_time_and_blocks_nobody() -> None:
    async def run() -> None:
        times: list[float] = []
        good: list[float] = []

        async def reconcile(found: Ref) -> float | None:
            if found.name == "good":
                good.append(now())
                return 10.0
            times.append(now())
            raise ValueError("poison")

        made = controller(reconcile)
        made.ring(key("bad"))
        made.ring(key("good"))
        await asyncio.sleep(2000)
        await made.stop()
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert gaps[0] < 1.2
        assert all(after > before for before, after in itertools.pairwise(gaps[:7]))
        assert 250 < max(gaps) <= 331
        assert len(good) >= 190

    jump(run)


def test_the_servers_wish_for_a_pause_is_honoured_and_success_ends_the_back_off() -> None:
    async def run() -> None:
        times: list[float] = []
        answers: list[Exception | None] = [ApiError(429, "TooManyRequests", "slow down", 17.0), None]

        async def reconcile(_: Ref) -> float | None:
            times.append(now())
            answer = answers.pop(0) if answers else None
            if answer:
                raise answer
            return float("inf")

        made = controller(reconcile)
        made.ring(key("a"))
        await asyncio.sleep(30)
        assert times[1] - times[0] == pytest.approx(17.0)
        assert made._failures == {}
        await asyncio.sleep(700)
        assert len(times) == 3
        assert 540 <= times[2] - times[1] <= 660
        await made.stop()

    jump(run)


def test_what_is_gone_is_not_looked_at_again() -> None:
    async def run() -> None:
        seen: list[Ref] = []

        async def reconcile(found: Ref) -> float | None:
            seen.append(found)

        made = controller(reconcile)
        made.ring(key("a"))
        await asyncio.sleep(5000)
        assert seen == [key("a")]
        await made.stop()

    jump(run)


def test_a_pass_that_hangs_is_cut() -> None:
    async def run() -> None:
        async def reconcile(found: Ref) -> float | None:
            if found.name == "stuck":
                await asyncio.Event().wait()
            return 1.0

        made = controller(reconcile)
        made.ring(key("stuck"))
        made.ring(key("waits"))
        await asyncio.sleep(70)
        assert "workers are busy" in problem(made.queue.oldest_seconds(), made.queue.busy, 0.0)
        await asyncio.sleep(60)
        assert problem(made.queue.oldest_seconds(), made.queue.busy, 0.0) == ""
        await made.stop()

    jump(run)


def test_health_hears_of_a_deaf_watch() -> None:
    assert problem(0.0, 0, 299.0) == ""
    assert "a watch has not heard" in problem(0.0, 0, 301.0)


def test_two_workers_never_share_a_key() -> None:
    async def run() -> None:
        running: set[Ref] = set()
        clashes: list[Ref] = []

        async def reconcile(found: Ref) -> float | None:
            if found in running:
                clashes.append(found)
            running.add(found)
            await asyncio.sleep(1)
            running.discard(found)
            return 0.5

        made = controller(reconcile, workers=4)
        for number in range(3):
            made.ring(key(f"m{number}"))
        for _ in range(50):
            made.ring(key("m0"))
            await asyncio.sleep(0.3)
        await made.stop()
        assert clashes == []

    jump(run)
