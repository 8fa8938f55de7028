"""The bytes of one connection on their way to the partial blob, by the chunk. Used by `sources.download.ranges`."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence

from paddock_runner.sources.download.leases import Lease
from paddock_runner.store.errors import StoreError
from paddock_runner.store.partial import PartialBlob

_MANY = 64

Parts = Sequence[bytes | memoryview]
Write = Callable[[int, Parts], Awaitable[None]]
"""Stores the parts, one after the other, from an offset on."""


class Spool:
    """Collects what follows byte `offset`; bytes that the partial blob has already are left out."""

    def __init__(self, partial: PartialBlob, lease: Lease, offset: int) -> None:
        self._partial = partial
        self._lease = lease
        self._offset = offset
        self._parts: list[bytes | memoryview] = []
        self.count = 0

    @property
    def reached(self) -> int:
        """The byte after the last one that came."""
        return self._offset + self.count

    def add(self, data: bytes, room: int) -> None:
        """Take at most `room` bytes of `data`."""
        part = data if len(data) <= room else memoryview(data)[:room]
        self._parts.append(part)
        self.count += len(part)
        self._lease.reached = max(self._lease.reached, self.reached)

    async def flush(self, write: Write) -> int:
        """Hand the missing ones to `write`; returns how many bytes were new."""
        new = 0
        for offset, parts in self._take():
            await write(offset, parts)
            new += sum(len(part) for part in parts)
        self._lease.start = max(self._lease.start, self._offset)
        return new

    def rescue(self) -> int:
        """Write what is left at once, because the connection is lost; returns how many bytes were new."""
        new = 0
        with contextlib.suppress(StoreError):
            for offset, parts in self._take():
                self._partial.write(offset, parts)
                new += sum(len(part) for part in parts)
        return new

    def _take(self) -> list[tuple[int, Parts]]:
        start, end, parts = self._offset, self.reached, self._parts
        self._parts, self._offset, self.count = [], end, 0
        missing = self._partial.gaps(start, end)
        if missing == [(start, end)] and len(parts) <= _MANY:
            return [(start, parts)]
        whole = memoryview(b"".join(parts))
        return [(low, [whole[low - start : high - start]]) for low, high in missing]
