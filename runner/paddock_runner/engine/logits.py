"""Arithmetic on one row of logits as a NumPy view. Called by the backends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from paddock_runner.core.generation import TokenLogprob
from paddock_runner.engine.backend import NonFiniteLogitsError

Row = NDArray[np.float32]

# JSON has no infinity; a token with no probability gets this instead, as OpenAI's API does.
LOWEST_LOGPROB = -9999.0


def best_token(row: Row) -> int:
    """Index of the highest logit, the first of equals. Raises NonFiniteLogitsError for a row with NaN or +inf."""
    index = int(row.argmax())  # NumPy's argmax stops at the first NaN
    if not np.isfinite(row[index]):
        raise NonFiniteLogitsError
    return index


def masked(row: Row, allowed: NDArray[np.bool_]) -> Row:
    """A copy of the row in which what is not allowed has no probability."""
    return np.where(allowed, row, np.float32(-np.inf))


def token_logprob(row: Row, token: int, top: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """Log-probability of `token` and of the `top` most probable tokens, best first, over the whole row."""
    wide = row.astype(np.float64)
    highest = wide.max()
    logprobs = wide - (highest + np.log(np.exp(wide - highest).sum()))
    best = _best(logprobs, min(top, len(row)))
    return TokenLogprob(
        token=token,
        piece=piece(token),
        logprob=_clamped(logprobs[token]),
        top=tuple((index, piece(index), _clamped(logprobs[index])) for index in best),
    )


def _best(logprobs: NDArray[np.float64], count: int) -> list[int]:
    if count == 0:
        return []
    some = np.argpartition(logprobs, -count)[-count:]
    return [int(index) for index in some[np.argsort(-logprobs[some], kind="stable")]]


def _clamped(logprob: np.float64) -> float:
    return max(float(logprob), LOWEST_LOGPROB)
