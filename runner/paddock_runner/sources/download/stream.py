"""Download a file from the first byte to the last over one connection, where its digest or its length is not known.

Called by `sources.download.blob`. The digest is what was hashed. A cut line is continued only from a server that
promises, by a strong ETag, that the file is still the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from paddock_runner.core.manifest import MAX_BLOB_BYTES
from paddock_runner.sources.download.answers import RangesUselessError
from paddock_runner.sources.download.pace import Patience
from paddock_runner.sources.download.requests import Incoming, Requests
from paddock_runner.sources.download.threads import finish
from paddock_runner.sources.errors import NetworkError
from paddock_runner.store.errors import SizeMismatchError
from paddock_runner.store.files import require_space
from paddock_runner.store.writer import BlobWriter


class Stream:
    """One download into `writer`; `size` in bytes is what the file must have, None if that is not known."""

    def __init__(
        self, requests: Requests, writer: BlobWriter, size: int | None, tell: Callable[[int, int], None]
    ) -> None:
        self._requests = requests
        self._limits = requests.limits
        self._writer = writer
        self._size = size
        self._tell = tell
        self._etag = ""
        self._farthest = 0

    async def run(self) -> None:
        """Return when the server has sent all. Raises what `Ranges.run` raises."""
        watching = asyncio.create_task(self._requests.watch.run())
        try:
            await self._attempts()
        finally:
            watching.cancel()

    async def _attempts(self) -> None:
        patience = Patience(self._limits)
        while True:
            try:
                return await self._once()
            except NetworkError as error:
                if isinstance(error, RangesUselessError):
                    self._etag = ""
                if self._writer.written > self._farthest:
                    self._farthest = self._writer.written
                    patience.progress()
                pause = patience.failed(random.random(), error.retry_after)  # noqa: S311 (jitter, no secret)
                if pause is None or not error.retryable:
                    raise
            await asyncio.sleep(pause)

    async def _once(self) -> None:
        start = self._writer.written if self._etag else 0
        async with self._requests.open(start, MAX_BLOB_BYTES, None, self._etag) as incoming:
            if self._writer.written != incoming.body.start:
                await finish(self._writer.restart)
            self._etag = incoming.etag
            total = incoming.body.total
            if total is not None:
                require_space(self._writer.path.parent, total - start, f"the file from {self._requests.host}")
            await self._copy(incoming, total)
            if total is not None and self._writer.written < total:
                raise NetworkError(f"the connection ended after {self._writer.written} of {total} bytes")
        self._check_total(self._writer.written)

    async def _copy(self, incoming: Incoming, total: int | None) -> None:
        parts: list[bytes | memoryview] = []
        async for data in self._requests.pieces(incoming):
            self._check_total(total)
            parts.append(data)
            if sum(map(len, parts)) >= self._limits.chunk_bytes:
                with incoming.watched.held():
                    await self._write(parts, total)
                parts = []
        await self._write(parts, total)

    async def _write(self, parts: list[bytes | memoryview], total: int | None) -> None:
        limit = self._limits.maximum_bytes
        if self._writer.written + sum(map(len, parts)) > limit:
            raise NetworkError(f"the file has more than {limit} bytes, the limit", retryable=False)
        await finish(self._writer.write, b"".join(parts))
        self._tell(self._writer.written, self._size or total or self._writer.written)

    def _check_total(self, total: int | None) -> None:
        if self._size is not None and total is not None and total != self._size:
            raise SizeMismatchError(f"the file of {self._requests.host}", self._size, total)
