"""A chain on a prefilter's candidates draws what the same chain draws from the whole vocabulary, token by token.

The reference does what `llama_sampler_sample` does with a row: all tokens in the order of their ids into one array.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from paddock_runner.core.engine_sampling import FirstCut, first_cut, is_plain_greedy, normal_sampling
from paddock_runner.core.generation import Sampling
from paddock_runner.engine.llama import LlamaBackend
from paddock_runner.engine.llama_bindings import api
from paddock_runner.engine.llama_log import LogCapture
from paddock_runner.engine.llama_samplers import LlamaSampler
from paddock_runner.engine.logits import Row
from paddock_runner.engine.prefilter import Prefilter

SIZE = 20_011
DRAWS = int(os.environ.get("PREFILTER_DRAWS", "40"))
"""For each combination; 400 of them make 10^5 draws and more."""
PROMPT = [5, 9, 9, 100, 2500, 20_010]
NEUTRAL = Sampling(temperature=1.0, top_k=0, top_p=1.0)

CUTS = ({"top_k": 1}, {"top_k": 40}, {"top_k": 128}, {"min_p": 0.05}, {"top_k": 20, "min_p": 0.1})
SHAPES = (
    {},
    {"top_p": 0.9},
    {"typical_p": 0.7},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"dynatemp_range": 0.5},
)
MOVES = (
    {},
    {"repeat_penalty": 1.3, "repeat_last_n": 64},
    {"presence_penalty": 0.7, "frequency_penalty": -0.4, "repeat_last_n": 4},
    {"logit_bias": ((7, 30.0), (9, -100.0), (2500, 2.5))},
)
HEATS = ({"temperature": 0.0}, {"temperature": 0.7}, {"temperature": 1.5})


def combinations() -> Iterator[Sampling]:
    for parts in itertools.product(CUTS, SHAPES, MOVES, HEATS):
        changes: dict[str, Any] = {"seed": 11}
        for part in parts:
            changes |= part
        wanted = normal_sampling(replace(NEUTRAL, **changes), vocab_size=SIZE, context=4096, seed=0)
        if first_cut(wanted) is not None and not is_plain_greedy(wanted):
            yield wanted


TAKEN = list(combinations())


class Whole:
    """The chain over all tokens."""

    def __init__(self, sampler: LlamaSampler) -> None:
        self._sampler = sampler
        self._data = (api.llama_token_data * SIZE)()
        self._view = np.frombuffer(self._data, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def draw(self, row: Row) -> int:
        self._view["id"] = np.arange(SIZE)
        self._view["logit"] = row
        array = api.llama_token_data_array(self._data, SIZE, -1, False)
        api.llama_sampler_apply(self._sampler.chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        self._sampler._accept(token)
        return token


class Pair:
    """Two samplers of one request: `whole` draws always, `filtered` where it may."""

    def __init__(self, vocab: Any, sampling: Sampling) -> None:
        self._samplers = [LlamaSampler(vocab, SIZE, sampling, PROMPT) for _ in range(2)]
        self._whole, self._other = (Whole(sampler) for sampler in self._samplers)
        self.left = 0

    def step(self, row: Row) -> tuple[int, int]:
        expected = self._whole.draw(row.copy())
        given = row.copy()
        token = self._samplers[1]._draw_filtered(given)
        assert (given == row).all(), "the logits are as they were"
        if token is None:
            self.left += 1
            return expected, self._other.draw(row.copy())
        self._samplers[1]._accept(token)
        return expected, token

    def close(self) -> None:
        for sampler in self._samplers:
            sampler.close()


@pytest.fixture(scope="module")
def vocab(tiny_model: Path) -> Iterator[Any]:
    backend = LlamaBackend([tiny_model], LogCapture("critical"))
    yield backend._vocabulary.native
    backend.close()


def rows(seed: int, count: int) -> Iterator[Row]:
    """Flat ones, peaked ones, and some that a mask has thinned out."""
    luck = np.random.default_rng(seed)
    for number in range(count):
        row = (luck.standard_normal(SIZE) * (1 + number % 4)).astype(np.float32)
        row[luck.integers(0, SIZE, 8)] += np.float32(number % 3 * 4)
        if number % 5 == 4:
            row[luck.random(SIZE) > 20 / SIZE] = -np.inf
            row[luck.integers(0, SIZE)] = 1.0
        yield row


def test_many_combinations_are_taken() -> None:
    assert len(TAKEN) > 200
    assert {sampling.top_k for sampling in TAKEN} == {0, 1, 20, 40, 128}


@pytest.mark.parametrize("part", range(10))
def test_the_same_tokens(vocab: Any, part: int) -> None:
    for number, sampling in enumerate(TAKEN[part::10]):
        pair = Pair(vocab, sampling)
        for row in rows(1000 * part + number, DRAWS):
            expected, token = pair.step(row)
            assert token == expected, sampling
        pair.close()
        # Thinned rows (one in five) may need the whole chain, others hardly ever do.
        assert pair.left <= DRAWS // 5 + max(DRAWS // 50, 3), sampling


@pytest.mark.parametrize("levels", [2, 30, 400])
def test_ties_are_broken_by_the_whole_chain(vocab: Any, levels: int) -> None:
    left = 0
    for number, sampling in enumerate(TAKEN[::5]):
        pair = Pair(vocab, sampling)
        luck = np.random.default_rng(number)
        for _ in range(8):
            row = (luck.integers(0, levels, SIZE) / levels * 9).astype(np.float32)
            expected, token = pair.step(row)
            assert token == expected, sampling
        left += pair.left
        pair.close()
    assert left > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"mirostat": 1}, {"mirostat": 2}, {"dry_multiplier": 0.8}, {"top_n_sigma": 1.0}, {"top_k": 0}, {"top_k": 129},
        {"top_k": 0, "min_p": 0.1, "top_p": 0.9}, {"top_k": 0, "min_p": 0.1, "typical_p": 0.9},
        {"logit_bias": ((1, 1.0), (1, 2.0))},
    ],
)  # fmt: skip
def test_what_may_depend_on_all_tokens_is_not_taken(changes: dict[str, Any]) -> None:
    assert first_cut(replace(Sampling(top_k=40), **changes)) is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 40]), st.sets(st.integers(0, 4000), max_size=20))
def test_candidates_hold_every_token_that_can_be_among_the_best(seed: int, top_k: int, moved: set[int]) -> None:
    luck = np.random.default_rng(seed)
    row = luck.standard_normal(4001).astype(np.float32)
    found = Prefilter(FirstCut(top_k, 0.0, False), moved, 0, ()).candidates(row)
    assert found is not None
    lowered = _moved_down(row, moved, luck)
    assert set(np.argsort(-lowered)[:top_k]) <= set(found.tolist())
    assert len(set(found.tolist())) == len(found)


def _moved_down(row: Row, moved: set[int], luck: np.random.Generator) -> NDArray[np.float32]:
    changed = row.copy()
    for token in moved:
        changed[token] -= np.float32(luck.random() * 3)
    return changed
