"""The queue of keys: once more after a ring, never two at a time, nobody waits for another."""

from __future__ import annotations

import asyncio

from tests.support.waiting import until

from paddock_operator.executors.local.keyed import KeyedQueue


class Work:
    """Counts and can be held."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.active: dict[str, int] = {}
        self.errors: list[str] = []
        self.idles = 0
        self.gates: dict[str, asyncio.Event] = {}
        self.poison: set[str] = set()
        self.queue: KeyedQueue[str] = KeyedQueue(self.work, self.failed, self.idle)

    async def work(self, key: str) -> None:
        self.active[key] = self.active.get(key, 0) + 1
        assert self.active[key] == 1, "one key is worked on once at a time"
        try:
            if key in self.gates:
                await self.gates[key].wait()
            if key in self.poison:
                raise ValueError("poison")
            self.done.append(key)
        finally:
            self.active[key] -= 1

    def failed(self, key: str, error: Exception) -> None:
        self.errors.append(f"{key}: {error}")

    def idle(self) -> None:
        self.idles += 1


async def test_rings_before_the_work_are_one() -> None:
    work = Work()
    for _ in range(5):
        work.queue.ring("a")
    await until(lambda: work.idles)
    assert work.done == ["a"]


async def test_a_ring_during_the_work_means_once_more() -> None:
    work = Work()
    work.gates["a"] = asyncio.Event()
    work.queue.ring("a")
    await until(lambda: work.active.get("a"))
    for _ in range(3):
        work.queue.ring("a")
    work.gates["a"].set()
    await until(lambda: work.idles)
    assert work.done == ["a", "a"]


async def test_one_key_never_blocks_another() -> None:
    work = Work()
    work.gates["slow"] = asyncio.Event()
    work.queue.ring("slow")
    work.queue.ring("fast")
    await until(lambda: work.done == ["fast"])
    assert work.idles == 0
    work.gates["slow"].set()
    await until(lambda: work.idles == 1)


async def test_a_poisoned_key_is_contained_and_tried_again() -> None:
    work = Work()
    work.poison.add("bad")
    work.queue.ring("bad")
    work.queue.ring("good")
    await until(lambda: work.errors and work.done)
    assert (work.errors, work.done) == (["bad: poison"], ["good"])
    work.poison.clear()
    await until(lambda: work.done == ["good", "bad"])


async def test_a_later_ring_replaces_the_timer() -> None:
    work = Work()
    work.queue.ring_later("a", 3600)
    work.queue.ring_later("a", 0.01)
    await until(lambda: work.done == ["a"])
    work.queue.ring_later("b", 0.01)
    work.queue.forget("b")
    await asyncio.sleep(0.05)
    assert work.done == ["a"]


async def test_close_waits_for_running_work_and_refuses_more() -> None:
    work = Work()
    work.gates["a"] = asyncio.Event()
    work.queue.ring("a")
    await until(lambda: work.active.get("a"))
    closing = asyncio.create_task(work.queue.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    work.queue.ring("a")
    work.gates["a"].set()
    await closing
    work.queue.ring("b")
    await asyncio.sleep(0.01)
    assert work.done == ["a"]
