"""Ranges of bytes of one file as a sorted set: what is there, what is missing. Pure.

Used by partial downloads (`store.partial`) and by the planner of connections (`sources.download.leases`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Span = tuple[int, int]
"""From the first byte to the one after the last."""


class Spans:
    """Disjoint spans in order; neighbours that touch are one."""

    def __init__(self, items: Iterable[Span] = ()) -> None:
        self._items: list[Span] = []
        for start, end in items:
            self.add(start, end)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._items)

    @property
    def total(self) -> int:
        """Bytes in all spans."""
        return sum(end - start for start, end in self._items)

    def add(self, start: int, end: int) -> None:
        """Include these bytes, whether some of them are in already or not."""
        if start >= end:
            return
        touching = [item for item in self._items if item[0] <= end and item[1] >= start]
        apart = [item for item in self._items if item[0] > end or item[1] < start]
        touching.append((start, end))
        joined = (min(low for low, _ in touching), max(high for _, high in touching))
        self._items = sorted([*apart, joined])

    def remove(self, start: int, end: int) -> None:
        """Take these bytes out, whether they are in or not."""
        if start >= end:
            return
        kept: list[Span] = []
        for low, high in self._items:
            kept += [span for span in ((low, min(high, start)), (max(low, end), high)) if span[0] < span[1]]
        self._items = kept

    def gaps(self, start: int, end: int) -> list[Span]:
        """The spans between `start` and `end` that are not in, in order."""
        missing: list[Span] = []
        for low, high in self._items:
            if high <= start:
                continue
            if low >= end:
                break
            if low > start:
                missing.append((start, low))
            start = max(start, high)
        if start < end:
            missing.append((start, end))
        return missing
