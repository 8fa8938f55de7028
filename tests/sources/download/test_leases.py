"""The planner of connections: every missing byte has one owner, and ranges are asked for as HTTP wants them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.sources.download.leases import Lease, Leases, range_header
from paddock_runner.store.spans import Spans

SEGMENT, WINDOW = 80, 400


@pytest.mark.parametrize(
    ("start", "end", "size", "header"),
    [
        (0, 1 << 50, None, None),
        (0, 100, 100, None),
        (5, 100, 100, "bytes=5-"),
        (5, 1 << 50, None, "bytes=5-"),
        (0, 50, 100, "bytes=0-49"),
        (99, 100, 100, "bytes=99-"),
    ],
)
def test_the_range_header(start: int, end: int, size: int | None, header: str | None) -> None:
    assert range_header(start, end, size) == header


def spans(*leases: Lease | None) -> list[tuple[int, int] | None]:
    return [lease and (lease.start, lease.end) for lease in leases]


def test_one_alone_takes_all_and_others_share_its_rest() -> None:
    leases = Leases(SEGMENT, WINDOW)
    first = leases.take([(0, 1000)], 0)
    second = leases.take([(0, 1000)], 0)
    assert spans(first, second) == [(0, 80), (80, 160)]
    assert spans(leases.take([(0, 1000)], 0)) == [(160, 240)]


def test_nobody_takes_what_another_has_received() -> None:
    leases = Leases(SEGMENT, WINDOW)
    first = leases.take([(0, 1000)], 0)
    assert first is not None
    first.reached = 500
    assert spans(leases.take([(0, 1000)], 0), first) == [(580, 660), (0, 580)]


def test_the_end_is_split_until_it_does_not_pay() -> None:
    leases = Leases(SEGMENT, WINDOW)
    first = leases.take([(0, 40)], 0)
    assert spans(leases.take([(0, 40)], 0), first) == [(20, 40), (0, 20)]
    assert spans(leases.take([(0, 40)], 0)) == [(10, 20)]
    assert leases.take([(0, 40)], 0) is not None
    assert leases.take([(0, 40)], 0) is None


def test_a_released_rest_is_free_and_far_ahead_waits() -> None:
    leases = Leases(SEGMENT, WINDOW)
    first = leases.take([(0, 1000)], 0)
    second = leases.take([(0, 1000)], 0)
    assert first is not None
    assert second is not None
    leases.release(first)
    second.reached = second.end
    assert spans(leases.take([(30, 80), (300, 310), (900, 1000)], 0)) == [(30, 80)]
    assert spans(leases.take([(30, 80), (300, 310), (900, 1000)], 0)) == [(300, 310)]
    assert Leases(SEGMENT, WINDOW).take([], 0) is None
    far = Leases(SEGMENT, WINDOW)
    far.take([(0, 10)], 0)
    assert far.take([(0, 10), (900, 1000)], 0) is None


@given(st.integers(1, 3000), st.integers(1, 9), st.integers(0, 1 << 30))
def test_any_schedule_fetches_every_byte_once(size: int, connections: int, seed: int) -> None:
    luck, leases, have, active = random.Random(seed), Leases(SEGMENT, WINDOW), Spans(), []
    for _ in range(20_000):
        gaps = have.gaps(0, size)
        if not gaps and not active:
            break
        hashed = gaps[0][0] if gaps else size
        if len(active) < connections and (lease := leases.take(gaps, hashed)) is not None:
            active.append(lease)
        if not active:
            continue
        lease = luck.choice(active)
        step = min(luck.randint(1, 60), lease.end - lease.start)
        assert have.gaps(lease.start, lease.start + step) == ([(lease.start, lease.start + step)] if step else [])
        have.add(lease.start, lease.start + step)
        lease.start = lease.reached = lease.start + step
        if lease.start == lease.end or luck.random() < 0.1:
            active.remove(lease)
            leases.release(lease)
    assert list(have) == [(0, size)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 60)), max_size=30))
def test_spans_are_sets(steps: list[tuple[bool, int, int]]) -> None:
    found, model = Spans(), set[int]()
    for adds, start, end in steps:
        (found.add if adds else found.remove)(start, end)
        model = model | set(range(start, end)) if adds else model - set(range(start, end))
        assert {at for low, high in found for at in range(low, high)} == model
        assert found.total == len(model)
        assert {at for low, high in found.gaps(5, 50) for at in range(low, high)} == set(range(5, 50)) - model
    assert all(left[1] < right[0] for left, right in zip(list(found), list(found)[1:], strict=False))
