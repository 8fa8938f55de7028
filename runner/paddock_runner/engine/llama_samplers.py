"""llama.cpp's sampler chain of one sequence. Called by `engine.llama`.

Samplers and their order are those of llama.cpp's own programs (`common/sampling.cpp`), so results equal theirs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from paddock_runner.core.engine_sampling import first_cut, history_length, is_plain_greedy
from paddock_runner.core.generation import Sampling
from paddock_runner.engine.llama_bindings import api
from paddock_runner.engine.logits import Row
from paddock_runner.engine.prefilter import MOST, Ids, Prefilter

_DRY_BREAKERS = (b"\n", b":", b'"', b"*")
_MOST_MOVED = 512
_MIN_KEEP = 0
_MIROSTAT_M = 100
_SUPPRESSED = float("-inf")


class LlamaSampler:
    """`chain` is None when the highest logit decides: then no chain has to look at the whole vocabulary.

    Where a prefilter is proved equal the chain sees its candidates only. `_mover` is a second chain of what changes
    logits before the first cut: it tells whether two candidates tie there, which only the whole chain may break.
    """

    def __init__(self, vocab: Any, vocab_size: int, sampling: Sampling, tokens: Sequence[int]) -> None:
        """`sampling` must be normal (`core.engine_sampling`). The latest of `tokens` become its history."""
        biases = _biases(vocab, sampling)
        self.chain: Any = None
        self._mover: Any = None
        self._prefilter: Prefilter | None = None
        if is_plain_greedy(sampling) and not biases:
            return
        self.chain = _chain(_links(vocab, vocab_size, sampling, biases))
        history = history_length(sampling)
        seen = tokens[-history:] if history else ()
        if (cut := first_cut(sampling)) is not None and len(biases) + history <= _MOST_MOVED:
            self._prefilter = Prefilter(cut, (token for token, _ in biases), history, seen)
            self._mover = _chain(_movers(vocab_size, sampling, biases)) if self._prefilter.moves else None
        for token in seen:
            self._accept(token)

    def draw(self, row: Row, context: Any, index: int) -> int:
        """The next token from `row`, the logits of the output `index` of `context`; it counts as accepted."""
        token = self._draw_filtered(row)
        if token is None:
            token = int(api.llama_sampler_sample(self.chain, context, index))
        else:
            api.llama_sampler_accept(self.chain, token)
        self._remember(token)
        return token

    def close(self) -> None:
        for chain in (self.chain, self._mover):
            if chain is not None:
                api.llama_sampler_free(chain)
        self.chain = self._mover = None

    def _draw_filtered(self, row: Row) -> int | None:
        if self._prefilter is None or (ids := self._prefilter.candidates(row)) is None:
            return None
        logits = row[ids]
        if self._mover is not None:
            _CANDIDATES.fill(ids, logits)
            _CANDIDATES.apply(self._mover)
            if not self._prefilter.is_clear(_CANDIDATES.logits):
                return None
        elif not self._prefilter.is_clear(logits):
            return None
        _CANDIDATES.fill(ids, logits)
        _CANDIDATES.apply(self.chain)
        return _CANDIDATES.chosen

    def _accept(self, token: int) -> None:
        api.llama_sampler_accept(self.chain, token)
        self._remember(token)

    def _remember(self, token: int) -> None:
        if self._prefilter is not None:
            self._prefilter.accept(token)
        if self._mover is not None:
            api.llama_sampler_accept(self._mover, token)


class _Candidates:
    """A llama_token_data_array over memory of ours."""

    def __init__(self) -> None:
        self._data = np.zeros(MOST, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._first = self._data.ctypes.data_as(ctypes.POINTER(api.llama_token_data))
        self._native = api.llama_token_data_array()
        self._pointer = ctypes.pointer(self._native)

    def fill(self, ids: Ids, logits: Row) -> None:
        count = len(ids)
        self._data["id"][:count] = ids
        self._data["logit"][:count] = logits
        native = self._native
        # XTC moves the pointer.
        native.data, native.size, native.selected, native.sorted = self._first, count, -1, False

    def apply(self, chain: Any) -> None:
        api.llama_sampler_apply(chain, self._pointer)

    @property
    def logits(self) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], self._data["logit"][: self._native.size])

    @property
    def chosen(self) -> int:
        return int(self._native.data[self._native.selected].id)


_CANDIDATES = _Candidates()
"""One for the process: a sampler is used by one thread, from fill to chosen without a pause."""


def _chain(links: Iterator[Any]) -> Any:
    params = api.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = api.llama_sampler_chain_init(params)
    for link in links:
        api.llama_sampler_chain_add(chain, link)
    return chain


def _biases(vocab: Any, sampling: Sampling) -> list[tuple[int, float]]:
    """The request's own, then the tokens that the model's file says must never come."""
    count = ctypes.c_int32(0)
    suppressed = api.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
    return [*sampling.logit_bias, *((suppressed[index], _SUPPRESSED) for index in range(count.value))]


def _links(vocab: Any, size: int, sampling: Sampling, biases: list[tuple[int, float]]) -> Iterator[Any]:
    yield from _bias_links(size, biases)
    yield from _mirostat_links(size, sampling) if sampling.mirostat else _default_links(vocab, size, sampling)


def _movers(size: int, sampling: Sampling, biases: list[tuple[int, float]]) -> Iterator[Any]:
    yield from _bias_links(size, biases)
    yield _penalties(size, sampling)


def _bias_links(size: int, biases: list[tuple[int, float]]) -> Iterator[Any]:
    if biases:
        array = (api.llama_logit_bias * len(biases))(*biases)
        yield api.llama_sampler_init_logit_bias(size, len(biases), array)


def _mirostat_links(size: int, sampling: Sampling) -> Iterator[Any]:
    yield api.llama_sampler_init_temp(sampling.temperature)
    tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
    if sampling.mirostat == 1:
        yield api.llama_sampler_init_mirostat(size, sampling.seed, tau, eta, _MIROSTAT_M)
    else:
        yield api.llama_sampler_init_mirostat_v2(sampling.seed, tau, eta)


def _default_links(vocab: Any, size: int, sampling: Sampling) -> Iterator[Any]:
    yield _penalties(size, sampling)
    yield _dry(vocab, sampling)
    yield api.llama_sampler_init_top_n_sigma(sampling.top_n_sigma)
    yield api.llama_sampler_init_top_k(sampling.top_k)
    yield api.llama_sampler_init_typical(sampling.typical_p, _MIN_KEEP)
    yield api.llama_sampler_init_top_p(sampling.top_p, _MIN_KEEP)
    yield api.llama_sampler_init_min_p(sampling.min_p, _MIN_KEEP)
    yield api.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, _MIN_KEEP, sampling.seed)
    yield api.llama_sampler_init_temp_ext(sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent)
    yield api.llama_sampler_init_dist(sampling.seed)


def _penalties(size: int, sampling: Sampling) -> Any:
    penalties = sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty
    return api.llama_sampler_init_penalties(size, sampling.repeat_last_n, *penalties)


def _dry(vocab: Any, sampling: Sampling) -> Any:
    breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
    window = sampling.dry_allowed_length, sampling.dry_penalty_last_n
    return api.llama_sampler_init_dry(
        vocab, sampling.dry_multiplier, sampling.dry_base, *window, breakers, len(_DRY_BREAKERS)
    )
