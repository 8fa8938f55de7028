"""Checks and normal form of sampling parameters before they reach native code. Called by `engine.loop`.

llama.cpp trusts its callers: an absurd window allocates memory, a zero penalty divides by zero. So every field is
checked here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from paddock_runner.core.generation import InvalidRequestError, Sampling

MAX_LOGIT_BIAS = 1024
MAX_LOGPROBS = 128
MAX_TOP_K = 128
"""Of a cut that is made before llama.cpp sorts anything; beyond it llama.cpp sorts in another way."""
_INT32 = 2**31 - 1
_UINT32 = 2**32 - 1

# field: (lowest, highest), both allowed
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1000.0),
    "dynatemp_range": (0.0, 1000.0),
    "dynatemp_exponent": (0.0, 1000.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (-1.0, 1000.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "repeat_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (0.0, 100.0),
    "mirostat_tau": (0.0, 100.0),
    "mirostat_eta": (0.0, 1.0),
    "top_k": (-1, _INT32),
    "repeat_last_n": (-1, _INT32),
    "dry_allowed_length": (0, _INT32),
    "dry_penalty_last_n": (-1, _INT32),
    "mirostat": (0, 2),
}


def normal_sampling(sampling: Sampling, *, vocab_size: int, context: int, seed: int) -> Sampling:
    """`sampling` made safe for llama.cpp: windows within `context`, a 32-bit seed (`seed` if it has none).

    Raises InvalidRequestError naming the field and its range.
    """
    for name, (low, high) in _RANGES.items():
        _check_range(name, getattr(sampling, name), low, high)
    _check_biases(sampling.logit_bias, vocab_size)
    return replace(
        sampling,
        repeat_last_n=_window(sampling.repeat_last_n, context),
        dry_penalty_last_n=_window(sampling.dry_penalty_last_n, context),
        seed=(seed if sampling.seed is None else sampling.seed) & _UINT32,
    )


def history_length(sampling: Sampling) -> int:
    """How many of the latest tokens a normal `sampling` looks at; 0 when it needs no history."""
    penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty) != (1.0, 0.0, 0.0)
    repeat = sampling.repeat_last_n if penalties and not sampling.mirostat else 0
    dry = sampling.dry_penalty_last_n if sampling.dry_multiplier and not sampling.mirostat else 0
    return max(repeat, dry)


def is_plain_greedy(sampling: Sampling) -> bool:
    """The highest logit decides and nothing changes the logits, so no sampler chain is needed."""
    return (
        sampling.temperature <= 0 and not sampling.logit_bias and not sampling.mirostat and not history_length(sampling)
    )


@dataclass(frozen=True, slots=True)
class FirstCut:
    """The first sampler that drops tokens: top_k (1 to MAX_TOP_K), or min_p where `top_k` is 0.

    `sized`: a later sampler looks at how many are left.
    """

    top_k: int
    min_p: float
    sized: bool


def first_cut(sampling: Sampling) -> FirstCut | None:
    """How a normal `sampling` drops tokens first; None if any token's fate may depend on all others.

    What comes before the cut (biases, penalties) moves only tokens that are named or were seen.
    """
    if sampling.mirostat or sampling.dry_multiplier or sampling.top_n_sigma > 0:
        return None
    if len({token for token, _ in sampling.logit_bias}) < len(sampling.logit_bias):
        return None  # llama.cpp adds up biases of one token only where it holds all tokens
    sized = sampling.typical_p < 1 or sampling.dynatemp_range > 0 or sampling.xtc_probability > 0
    if 1 <= sampling.top_k <= MAX_TOP_K:
        return FirstCut(sampling.top_k, 0.0, sized)
    if sampling.top_k <= 0 < sampling.min_p and sampling.top_p >= 1 and sampling.typical_p >= 1:
        return FirstCut(0, sampling.min_p, sized)
    return None


def _window(tokens: int, context: int) -> int:
    return context if tokens < 0 else min(tokens, context)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequestError(name, f"must be between {low:g} and {high:g}")


def _check_biases(biases: tuple[tuple[int, float], ...], vocab_size: int) -> None:
    if len(biases) > MAX_LOGIT_BIAS:
        raise InvalidRequestError("logit_bias", f"has {len(biases)} entries, at most {MAX_LOGIT_BIAS} are allowed")
    for token, bias in biases:
        if not 0 <= token < vocab_size:
            raise InvalidRequestError(
                "logit_bias", f"names token {token}, but the model has tokens 0 to {vocab_size - 1}"
            )
        if not math.isfinite(bias):
            raise InvalidRequestError("logit_bias", "must have finite values")
