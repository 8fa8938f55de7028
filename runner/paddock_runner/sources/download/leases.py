"""Which connection fetches which bytes. Pure: spans in, leases out.

Used by `sources.download.ranges`. The first connection takes all that is missing in one request; others, when they pay,
take their share from it. Nobody starts far ahead of the hash, so that hashing reads from the page cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paddock_runner.store.spans import Span, Spans


@dataclass(slots=True, eq=False)
class Lease:
    """Bytes `start` to `end` that one connection fetches; it has received those before `reached`.

    `end` may shrink, never below `reached`, when another connection takes the rest.
    """

    start: int
    end: int
    reached: int = 0

    def __post_init__(self) -> None:
        self.reached = self.start


class Leases:
    """The leases of one download: at most `segment` bytes each, except for one that is alone."""

    def __init__(self, segment: int, window: int) -> None:
        self._segment = segment
        self._window = window
        self._smallest = max(1, segment // 8)
        self._active: list[Lease] = []

    def __len__(self) -> int:
        return len(self._active)

    def take(self, gaps: Iterable[Span], hashed: int) -> Lease | None:
        """A lease on missing bytes, None when nothing is left to share now. `hashed` bytes are hashed so far."""
        taken = Spans((lease.start, lease.end) for lease in self._active)
        free = next((span for start, end in gaps for span in taken.gaps(start, end)), None)
        if free is None:
            return self._share()
        start, end = free
        if not self._active:
            return self._grant(start, end)
        if start >= hashed + self._window:
            return None
        return self._grant(start, min(end, start + self._segment))

    def release(self, lease: Lease) -> None:
        """End a lease; what it did not fetch is free again."""
        self._active.remove(lease)

    def _grant(self, start: int, end: int) -> Lease:
        lease = Lease(start, end)
        self._active.append(lease)
        return lease

    def _share(self) -> Lease | None:
        """Take the end of the longest lease."""
        longest = max(self._active, key=lambda lease: lease.end - lease.reached, default=None)
        if longest is None or (left := longest.end - longest.reached) < 2 * self._smallest:
            return None
        end, longest.end = longest.end, longest.reached + min(self._segment, left // 2)
        return self._grant(longest.end, min(end, longest.end + self._segment))


def range_header(start: int, end: int, size: int | None) -> str | None:
    """The Range header for bytes `start` to `end` of a file; None when a plain request gives just these."""
    if size is None or end >= size:
        return f"bytes={start}-" if start else None
    return f"bytes={start}-{end - 1}"
