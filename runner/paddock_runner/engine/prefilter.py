"""The few tokens of a row of logits that can come out of a sampler chain. Called by `engine.llama_samplers`.

A chain whose first cut is top_k or min_p throws away almost the whole vocabulary, but llama.cpp copies and sorts all of
it first. What is found here is a superset of what the first cut keeps, so the chain gives the same token from it;
`core.engine_sampling.first_cut` says for which chains that is proved.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from paddock_runner.core.engine_sampling import FirstCut
from paddock_runner.engine.logits import Row

MOST = 1024
"""More candidates than this are left to the whole chain."""
_COLUMNS = 1536
"""Of a row laid out as a table: many more than any cut keeps, and few enough to sort."""
# The chain computes its threshold in single precision from a maximum that is no smaller than ours.
_MARGIN = 0.01

Ids = NDArray[np.int64]


class Prefilter:
    """For one sequence. `biased` tokens and the latest `history` tokens may be moved by the chain before its cut."""

    def __init__(self, cut: FirstCut, biased: Iterable[int], history: int, tokens: Iterable[int]) -> None:
        self._cut = cut
        self._biased = frozenset(biased)
        self._history: deque[int] = deque(tokens, maxlen=history)
        self._moved: Ids | None = None

    @property
    def moves(self) -> bool:
        """Whether anything changes logits before the cut."""
        return bool(self._biased) or self._history.maxlen != 0

    def accept(self, token: int) -> None:
        """Remember a token that was generated."""
        if self._history.maxlen:
            self._history.append(token)
            self._moved = None

    def candidates(self, row: Row) -> Ids | None:
        """Ids that may pass the first cut, in order for min_p; None if the whole chain must decide."""
        moved = self._moved_ids()
        highest = _columns(row).max(axis=0)
        threshold = self._threshold(row, highest, moved)
        if not math.isfinite(threshold):
            return self._finite(row)
        found = _above(row, highest, threshold)
        if len(moved):
            found = np.concatenate((found, moved[row[moved] < threshold]))
        if not 0 < len(found) <= MOST:
            return None
        return found if self._cut.top_k else np.sort(found)

    def _finite(self, row: Row) -> Ids | None:
        """Fewer than top_k are left by a mask: what it took has no chance, if nobody counts it."""
        if self._cut.sized or not self._cut.top_k:
            return None
        found = np.flatnonzero(row > -np.inf)
        return found if 0 < len(found) <= MOST else None

    def is_clear(self, logits: NDArray[np.float32]) -> bool:
        """Whether the first top_k of these, and one more, have one order; always with min_p, which sorts none."""
        if not self._cut.top_k:
            return True
        best = -np.sort(-logits)[: self._cut.top_k + 1]
        best = best[best > -np.inf]
        return bool((best[1:] < best[:-1]).all())

    def _moved_ids(self) -> Ids:
        if self._moved is None:
            self._moved = np.array(sorted(self._biased.union(self._history)), dtype=np.int64)
        return self._moved

    def _threshold(self, row: Row, highest: NDArray[np.float32], moved: Ids) -> float:
        if self._cut.top_k:
            return _kth(highest, self._cut.top_k + len(moved))
        held = row[moved]
        row[moved] = -np.inf
        best = float(row.max())
        row[moved] = held
        return best + math.log(self._cut.min_p) - _MARGIN


def _columns(row: Row) -> NDArray[np.float32]:
    lines = max(len(row) // _COLUMNS, 1)
    width = len(row) // lines
    return row[: width * lines].reshape(lines, width)


def _kth(highest: NDArray[np.float32], count: int) -> float:
    """A value that at least `count` entries of a row reach, and few more; -inf if there is none.

    `highest`: of each column. So many columns have an entry of that value or more.
    """
    if count > len(highest):
        return -math.inf
    return float(np.partition(highest, len(highest) - count)[len(highest) - count])


def _above(row: Row, highest: NDArray[np.float32], threshold: float) -> Ids:
    """Ids of all entries that are at least `threshold`; those of a flat row, too many for use, not all."""
    columns = _columns(row)
    some = np.flatnonzero(highest >= threshold)[: MOST + 1]
    line, column = np.nonzero(columns[:, some] >= threshold)
    tail = np.flatnonzero(row[columns.size :] >= threshold) + columns.size
    return np.concatenate((line * len(highest) + some[column], tail))
