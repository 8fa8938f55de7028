"""Who goes next: fair between tenants, by priority, and nobody waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.test_scheduler import LIMIT, Machine, record, scheduler

from paddock_runner.core.generation import QueueFullError
from paddock_runner.core.scheduler_queue import OUTPUT_WEIGHT, PATIENCE, FairQueue
from paddock_runner.core.sequence import Sequence


def one(key: int, tenant: str = "", priority: int = 0, tokens: int = 10) -> Sequence:
    return Sequence(key, [1] * tokens, LIMIT, 5, tenant, priority)


def drained(queue: FairQueue) -> list[int]:
    order = []
    while (sequence := queue.next()) is not None:
        queue.take(sequence)
        queue.serve(sequence, len(sequence.tokens))
        order.append(sequence.key)
    return order


def test_one_tenant_is_served_in_order() -> None:
    queue = FairQueue()
    for key in range(5):
        queue.add(one(key))
    assert drained(queue) == [0, 1, 2, 3, 4]
    assert len(queue) == 0


def test_a_tenant_with_one_request_does_not_wait_for_another_ones_hundred() -> None:
    queue = FairQueue()
    for key in range(100):
        queue.add(one(key, "many"))
    queue.add(one(100, "few"))
    assert drained(queue).index(100) == 1


def test_tokens_count_not_requests() -> None:
    queue = FairQueue()
    for key in range(4):
        queue.add(one(key, "long", tokens=30))
    for key in range(4, 16):
        queue.add(one(key, "short", tokens=10))
    order = drained(queue)
    assert order[:8] == [0, 4, 5, 6, 1, 7, 8, 9]


def test_nobody_saves_up_by_being_away() -> None:
    queue = FairQueue()
    busy = one(0, "busy")
    queue.add(busy)
    queue.take(busy)
    queue.serve(busy, 10_000)
    for key in range(1, 4):
        queue.add(one(key, "busy"))
    for key in range(4, 8):
        queue.add(one(key, "new"))
    assert drained(queue)[:4] == [1, 4, 2, 5]


def test_those_who_left_are_forgotten_once_it_makes_no_difference() -> None:
    queue = FairQueue()
    for key in range(1000):
        sequence = one(key, f"tenant {key}")
        queue.add(sequence)
        queue.take(sequence)
        queue.serve(sequence, 1.0)
        queue.leave(sequence)
    queue.add(one(1000, "last"))
    queue.serve(one(0, "last"), 10_000)
    queue.add(one(1001, "last"))
    assert queue._served.keys() == {"last"}


def test_priority_goes_first_but_not_for_ever() -> None:
    queue = FairQueue()
    queue.add(one(0, priority=0))
    for key in range(1, 40):
        queue.add(one(key, priority=1))
    order = drained(queue)
    assert order[:3] == [1, 2, 3]
    assert order.index(0) == PATIENCE


def test_a_sequence_that_comes_back_has_its_old_place() -> None:
    queue = FairQueue()
    sequences = [one(key) for key in range(3)]
    for sequence in sequences:
        queue.add(sequence)
    queue.take(sequences[0])
    queue.put_back(sequences[0])
    assert drained(queue) == [0, 1, 2]


def test_the_expected_wait_follows_the_turns() -> None:
    queue = FairQueue()
    assert queue.expected_seconds() == 0
    for key in range(12):
        queue.add(one(key))
    for _ in range(8):
        for _ in range(20):
            queue.pass_time(100)
        queue.take(queue.next())
    assert queue.expected_seconds() == (4 + 1) * 2
    queue.pass_time(6000)
    assert queue.expected_seconds() == (4 + 1) * 6, "nothing moves any more"


def test_a_full_queue_says_how_long_it_is() -> None:
    plan = scheduler(slots=1, queue_depth=3)
    for key in range(3):
        plan.add(one(key))
    plan._queue.pass_time(4000)
    with pytest.raises(QueueFullError) as refused:
        plan.add(one(9))
    assert (refused.value.waiting, refused.value.retry_after) == (3, 16)


arrivals = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(1, 60), st.integers(1, 6)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=15, deadline=None)
@given(arrivals, st.integers(1, 3))
def test_everybody_is_served(wanted: list[tuple[str, int, int, int]], slots: int) -> None:
    """However tenants, priorities and sizes are mixed while a greedy tenant of high priority keeps coming."""
    machine = Machine(scheduler(slots))
    machine.backend.load(record(slots), lambda _: None)
    for key, (tenant, priority, size, most) in enumerate(wanted):
        machine.scheduler.add(Sequence(key, [key] * size, LIMIT, most, tenant, priority))
    comers = 0
    for _ in range(6000):
        if machine.finished.keys() >= set(range(len(wanted))):
            break
        if machine.scheduler.waiting < 12:
            comers += 1
            machine.scheduler.add(Sequence(1000 + comers, [7] * 30, LIMIT, 4, "greedy", 5))
        machine.step()
    assert machine.finished.keys() >= set(range(len(wanted)))


def test_two_tenants_that_always_want_get_the_same() -> None:
    machine = Machine(scheduler(slots=2))
    machine.backend.load(record(slots=2), lambda _: None)
    got = {"a": 0.0, "b": 0.0}
    sequences: dict[int, Sequence] = {}
    for key in range(120):
        tenant, size = ("a", 60) if key < 40 else ("b", 5)
        sequences[key] = Sequence(key, [key] * size, LIMIT, 3 if tenant == "a" else 20, tenant)
        if machine.scheduler.waiting < 99:
            machine.scheduler.add(sequences[key])
    for _ in range(300):
        step = machine.step()
        for chunk in step.chunks:
            weight = OUTPUT_WEIGHT if chunk.output else 0.0
            got[chunk.sequence.tenant] += weight + (
                len(chunk.tokens) if chunk.start < chunk.sequence.prompt_tokens else 0
            )
    assert machine.scheduler.waiting > 0
    assert 0.7 < got["a"] / got["b"] < 1.4
