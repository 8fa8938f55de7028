"""Steps of texts: who is joined, who is cut, whose turn it is, and what is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core.costs import BOUND_MS, CostModel
from paddock_runner.core.embed_scheduler import JOINT_TOKENS, EmbedScheduler, Piece, Text
from paddock_runner.core.embedding import EmbedRequest, check_embedding
from paddock_runner.core.generation import InvalidRequestError, QueueFullError, Segment


def scheduler(**changes: object) -> EmbedScheduler:
    numbers = {
        "sequences": 8, "batch": 2048, "cells": 0, "splits": False, "alone": False, "queue_depth": 100,
        "costs": CostModel(0.01),
    }  # fmt: skip
    return EmbedScheduler(**{**numbers, **changes})  # type: ignore[arg-type]


def texts(handle: int, *lengths: int) -> list[Text]:
    return [Text(handle, index, list(range(length))) for index, length in enumerate(lengths)]


def shown(pieces: list[Piece]) -> list[tuple[int, int, int, int]]:
    return [(piece.text.handle, piece.text.index, piece.start, len(piece.tokens)) for piece in pieces]


def steps_of(made: EmbedScheduler, ms_per_token: float = 0.01) -> list[list[Piece]]:
    """All steps until nothing is left, each of them as slow as its tokens."""
    steps = []
    while pieces := made.schedule():
        steps.append(pieces)
        made.finish(pieces, ms_per_token * sum(len(piece.tokens) for piece in pieces))
    return steps


def test_texts_of_several_requests_share_a_step_in_turn() -> None:
    made = scheduler(sequences=5)
    made.add(texts(1, 10, 10, 10), "a")
    made.add(texts(2, 10, 10), "a")
    made.add(texts(3, 10), "b")
    first, second = steps_of(made)
    assert [(handle, index) for handle, index, _, _ in shown(first)] == [(1, 0), (3, 0), (2, 0), (1, 1), (2, 1)]
    assert shown(second) == [(1, 2, 0, 10)]


def test_a_tenant_with_many_requests_does_not_hold_up_another() -> None:
    made = scheduler(sequences=2)
    for handle in range(50):
        made.add(texts(handle, 20), "many")
    made.add(texts(99, 20), "one")
    assert 99 in {piece.text.handle for piece in made.schedule()}


def test_whole_texts_are_joined_up_to_a_limit_and_long_ones_go_alone() -> None:
    made = scheduler()
    made.add(texts(1, 500, 20, 1500, 500), "")
    assert [shown(step) for step in steps_of(made)] == [
        [(1, 0, 0, 500)], [(1, 1, 0, 20)], [(1, 2, 0, 1500)], [(1, 3, 0, 500)],
    ]  # fmt: skip


def test_a_step_keeps_its_bound_as_soon_as_costs_are_known() -> None:
    made = scheduler(sequences=64, costs=CostModel(2.0))
    made.add(texts(1, *[20] * 100), "")
    steps = steps_of(made, ms_per_token=2.0)
    late = [2.0 * sum(len(piece.tokens) for piece in step) for step in steps[2:]]
    assert max(late) <= BOUND_MS
    assert sum(map(len, steps)) == 100


def test_alone_means_one_text_for_a_step() -> None:
    made = scheduler(alone=True)
    made.add(texts(1, 5, 5, 5), "")
    assert [len(step) for step in steps_of(made)] == [1, 1, 1]


def test_texts_are_cut_where_the_model_allows_it() -> None:
    made = scheduler(splits=True, cells=4096, costs=CostModel(1.0))
    made.add(texts(1, 1000), "")
    steps = steps_of(made, ms_per_token=1.0)
    assert len(steps) > 4
    assert all(len(step) == 1 for step in steps)
    starts = [step[0].start for step in steps]
    assert starts == [sum(len(step[0].tokens) for step in steps[:at]) for at in range(len(steps))]
    assert [step[0].last for step in steps] == [False] * (len(steps) - 1) + [True]
    assert max(len(step[0].tokens) for step in steps) <= min(JOINT_TOKENS, BOUND_MS)


def test_a_short_text_goes_beside_a_long_one() -> None:
    made = scheduler(splits=True, cells=4096, costs=CostModel(1.0))
    made.add(texts(1, 3000), "")
    first = made.schedule()
    made.finish(first, 100.0)
    made.add(texts(2, 10), "")
    seen = []
    while not any(handle == 2 for handle, *_ in seen):
        step = made.schedule()
        made.finish(step, float(sum(len(piece.tokens) for piece in step)))
        seen += shown(step)
    assert len(seen) < 30


def test_cells_are_promised_before_a_text_begins() -> None:
    made = scheduler(splits=True, cells=100, costs=CostModel(50.0))
    made.add(texts(1, 80, 60), "")
    first = made.schedule()
    assert made.used_cells == 80
    assert {piece.text.index for piece in first} == {0}
    while not first[0].last:
        made.finish(first, 100.0)
        first = made.schedule()
        assert {piece.text.index for piece in first} == {0}
    made.finish(first, 100.0)
    assert {piece.text.index for piece in made.schedule()} == {1}


def test_cancelled_requests_give_everything_back() -> None:
    made = scheduler(splits=True, cells=4096, sequences=1, costs=CostModel(1.0))
    made.add(texts(1, 1000, 5), "a")
    made.add(texts(2, 5), "b")
    begun = made.schedule()
    made.finish(begun, 100.0)
    assert made.remove(1) == [begun[0].text.slot]
    assert made.remove(7) == []
    assert shown(made.schedule()) == [(2, 0, 0, 5)]
    assert (made.running, made.waiting) == (1, 0)


def test_the_queue_is_bounded() -> None:
    made = scheduler(queue_depth=2)
    made.add(texts(1, 5, 5), "")
    made.add(texts(2, 5), "")
    with pytest.raises(QueueFullError):
        made.add(texts(3, 5), "")
    assert made.waiting == 3


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.sampled_from("abc")), max_size=8),
    st.booleans(),
    st.integers(1, 6),
    st.floats(0.01, 5.0),
)
def test_every_text_is_computed_once_and_in_order(
    requests: list[tuple[list[int], str]], splits: bool, sequences: int, ms: float
) -> None:
    made = scheduler(splits=splits, cells=700 if splits else 0, sequences=sequences, batch=700, costs=CostModel(ms))
    for handle, (lengths, tenant) in enumerate(requests):
        made.add(texts(handle, *lengths), tenant)
    read: dict[tuple[int, int], list[int]] = {}
    for step in steps_of(made, ms):
        assert len({piece.text.slot for piece in step}) == len(step) <= sequences
        assert sum(len(piece.tokens) for piece in step) <= 700
        for piece in step:
            before = read.setdefault((piece.text.handle, piece.text.index), [])
            assert len(before) == piece.start
            before += piece.tokens
            assert piece.last == (len(before) == len(piece.text.tokens))
    expected = {
        (handle, index): list(range(length))
        for handle, (lengths, _) in enumerate(requests)
        for index, length in enumerate(lengths)
    }
    assert read == expected
    assert (made.running, made.waiting, made.used_cells) == (0, 0, 0)


@pytest.mark.parametrize(("change", "words"), [
    ({"texts": ()}, "input: has 0 texts"),
    ({"texts": (Segment("x"),) * 2049}, "has 2049 texts"),
    ({"texts": (Segment(tokens=(1, 900)),)}, "token id outside 0 to 511"),
    ({"dimensions": -1}, "dimensions"),
    ({"context_limit": -1}, "context_limit"),
])  # fmt: skip
def test_bad_requests(change: dict[str, object], words: str) -> None:
    request = EmbedRequest(**{"request_id": "r", "texts": (Segment("x"),), **change})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=words):
        check_embedding(request, 512)
