"""The bytes of one connection on their way to the partial blob, by the chunk. Used by `sources.download.fetcher`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from paddock_runner.sources.download.leases import Lease
from paddock_runner.sources.download.pace import Patience
from paddock_runner.sources.download.threads import settled
from paddock_runner.store.direct import BLOCK
from paddock_runner.store.errors import StoreError
from paddock_runner.store.partial import PartialBlob

_MANY = 64

Parts = Sequence[bytes | memoryview]
Chunks = Sequence[tuple[int, Parts]]
"""Offsets in the file, and what is to be stored from there on, one part after the other."""
Write = Callable[[Chunks], asyncio.Future[None]]
"""Begins to store the chunks."""


class Spool:
    """Collects what follows byte `offset` while what came before is written; bytes that are there are left out."""

    def __init__(self, partial: PartialBlob, lease: Lease, offset: int, write: Write, patience: Patience) -> None:
        self._partial = partial
        self._lease = lease
        self._offset = offset
        self._write = write
        self._patience = patience
        self._parts: list[bytes | memoryview] = []
        self._writing: asyncio.Future[None] | None = None
        self.count = 0

    @property
    def reached(self) -> int:
        """The byte after the last one that came."""
        return self._offset + self.count

    def add(self, data: bytes | memoryview, room: int) -> None:
        """Take at most `room` bytes of `data`."""
        part = data if len(data) <= room else memoryview(data)[:room]
        self._parts.append(part)
        self.count += len(part)
        self._lease.reached = max(self._lease.reached, self.reached)

    async def flush(self) -> None:
        """Begin to write what came, once all before is written. Raises what writing that raised."""
        await self.settle()
        # Whole blocks can go around the page cache; the rest of the last one waits for the next flush.
        self._writing = self._write(self._take(self.reached // BLOCK * BLOCK))

    async def finish(self) -> None:
        """Write all that came and wait for it. Raises what writing raised."""
        await self.settle()
        self._writing = self._write(self._take(self.reached))
        await self.settle()

    async def settle(self) -> None:
        """Wait until all that was flushed is written, also when cancelled: nobody else may get these bytes before."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await settled(writing)
            self._patience.progress()

    async def rescue(self) -> None:
        """The connection is lost: write what came of it."""
        try:
            with contextlib.suppress(StoreError):
                await self.settle()
        finally:
            with contextlib.suppress(StoreError):
                for offset, parts in self._take(self.reached):
                    self._partial.write(offset, parts)
                    self._patience.progress()

    def _take(self, end: int) -> Chunks:
        """What is missing of the bytes before `end`, taken out."""
        start, end = self._offset, max(end, self._offset)
        parts, self._parts = _cut(self._parts, end - start)
        self.count -= end - start
        self._offset = end
        missing = self._partial.gaps(start, end)
        if missing == [(start, end)] and len(parts) <= _MANY:
            return [(start, parts)]
        whole = memoryview(b"".join(parts))
        return [(low, [whole[low - start : high - start]]) for low, high in missing]


def _cut(parts: list[bytes | memoryview], length: int) -> tuple[Parts, list[bytes | memoryview]]:
    """The first `length` bytes of `parts`, and the others."""
    at, first = 0, list[bytes | memoryview]()
    while at < len(parts) and length >= len(parts[at]):
        first.append(parts[at])
        length -= len(parts[at])
        at += 1
    rest = parts[at:]
    if length:
        view = memoryview(rest[0])
        first.append(view[:length])
        rest[0] = view[length:]
    return first, rest
