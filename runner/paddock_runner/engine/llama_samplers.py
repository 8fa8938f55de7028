"""llama.cpp's sampler chain of one sequence. Called by `engine.llama`.

Samplers and their order are those of llama.cpp's own programs (`common/sampling.cpp`), so results equal theirs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

from paddock_runner.core.engine_sampling import history_length, is_plain_greedy
from paddock_runner.core.generation import Sampling
from paddock_runner.engine.llama_bindings import api

_DRY_BREAKERS = (b"\n", b":", b'"', b"*")
_MIN_KEEP = 0
_MIROSTAT_M = 100
_SUPPRESSED = float("-inf")


class LlamaSampler:
    """`chain` is None when the highest logit decides: then no chain has to look at the whole vocabulary."""

    def __init__(self, vocab: Any, vocab_size: int, sampling: Sampling, tokens: Sequence[int]) -> None:
        """`sampling` must be normal (`core.engine_sampling`). The latest of `tokens` become its history."""
        biases = _biases(vocab, sampling)
        self.chain: Any = None
        if is_plain_greedy(sampling) and not biases:
            return
        self.chain = api.llama_sampler_chain_init(_chain_params())
        for link in _links(vocab, vocab_size, sampling, biases):
            api.llama_sampler_chain_add(self.chain, link)
        history = history_length(sampling)
        for token in tokens[-history:] if history else ():
            api.llama_sampler_accept(self.chain, token)

    def close(self) -> None:
        if self.chain is not None:
            api.llama_sampler_free(self.chain)
            self.chain = None


def _chain_params() -> Any:
    params = api.llama_sampler_chain_default_params()
    params.no_perf = True
    return params


def _biases(vocab: Any, sampling: Sampling) -> list[tuple[int, float]]:
    """The request's own, then the tokens that the model's file says must never come."""
    count = ctypes.c_int32(0)
    suppressed = api.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
    return [*sampling.logit_bias, *((suppressed[index], _SUPPRESSED) for index in range(count.value))]


def _links(vocab: Any, size: int, sampling: Sampling, biases: list[tuple[int, float]]) -> Iterator[Any]:
    if biases:
        array = (api.llama_logit_bias * len(biases))(*biases)
        yield api.llama_sampler_init_logit_bias(size, len(biases), array)
    yield from _mirostat_links(size, sampling) if sampling.mirostat else _default_links(vocab, size, sampling)


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
