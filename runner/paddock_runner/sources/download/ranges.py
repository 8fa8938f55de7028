"""Download a file of known digest over as many connections as pay, hashing behind them.

Called by `sources.download.blob`. One task per connection, one that hashes, one that syncs, one that looks for stalls
and one that counts: the first to fail ends all, and what came until then stays in the partial blob.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from paddock_runner.sources.download.answers import RangesUselessError
from paddock_runner.sources.download.fetcher import ChangedError, Fetcher
from paddock_runner.sources.download.leases import Lease, Leases
from paddock_runner.sources.download.pace import MAX_RETRY_AFTER, Patience, Ramp
from paddock_runner.sources.download.requests import Requests
from paddock_runner.sources.download.spool import Chunks
from paddock_runner.sources.errors import NetworkError, UnauthorizedError
from paddock_runner.store.errors import NoSpaceError, NotFoundError, StoreError
from paddock_runner.store.partial import PartialBlob

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

THREADS = 5
STRIKES = 2
SYNC_SECONDS = 2.0

Tell = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""


class Ranges:
    """One download into `partial`. `careful`: one plain request, whatever came before was wrong."""

    def __init__(self, requests: Requests, partial: PartialBlob, tell: Tell, careful: bool = False) -> None:
        self._requests = requests
        self._limits = requests.limits
        self._partial = partial
        self._tell = tell
        self._single = careful
        self._strikes = 0
        self._leases = Leases(self._limits.segment_bytes, self._limits.window_bytes)
        self._ramp = Ramp(1 if careful else requests.connections)
        self._live = 0
        self._quiet_until = 0.0
        self._news = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="download")
        self._fetcher = Fetcher(requests, partial, self._write, careful)

    async def run(self) -> None:
        """Return when every byte is there and hashed.

        Raises NetworkError, UnauthorizedError, NotFoundError, NotGGUFError, SizeMismatchError, NoSpaceError,
        CacheUnusableError; NoLengthError and ChangedError for `sources.download.blob`.
        """
        try:
            async with self._group as group:
                helpers = [group.create_task(work()) for work in (self._tick, self._sync, self._requests.watch.run)]
                group.create_task(self._hash())
                self._start()
                while not self._partial.complete:
                    await self._news.wait()
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as failures:
            raise _worst(failures) from None
        finally:
            self._partial.stop()
            self._pool.shutdown(wait=True, cancel_futures=True)

    # What runs beside the connections

    def _changed(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def _hash(self) -> None:
        await self._in_thread(self._partial.hash_all)
        self._changed()

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(min(SYNC_SECONDS, self._limits.tick_seconds) / 10)
            due = self._partial.unsynced and loop.time() - last > SYNC_SECONDS
            if due or self._partial.unsynced >= self._limits.sync_bytes:
                await self._in_thread(self._partial.sync)
                self._fetcher.require_space()
                last = loop.time()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        tick = self._limits.tick_seconds
        # A first connection that is still being opened would make the second one look good.
        while not self._requests.received:
            await asyncio.sleep(tick / 20)
            # Pieces that turn out to be damaged leave gaps, and who waits for work hears of them here.
            self._changed()
        await asyncio.sleep(tick / 4)
        while True:
            received, then = self._requests.received, loop.time()
            await asyncio.sleep(tick)
            self._ramp.observe((self._requests.received - received) / (loop.time() - then))
            while self._live < self._ramp.target:
                self._start()
            self._changed()

    def _write(self, chunks: Chunks) -> asyncio.Future[None]:
        writing = asyncio.get_running_loop().run_in_executor(self._pool, self._store, chunks)
        writing.add_done_callback(self._written)
        return writing

    def _store(self, chunks: Chunks) -> None:
        for offset, parts in chunks:
            self._partial.write(offset, parts)
            self._partial.wait_for_hash(offset)

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._tell(self._partial.done, self._partial.size or 0)
        self._changed()

    # Connections

    def _start(self) -> None:
        self._live += 1
        self._group.create_task(self._connection())

    async def _connection(self) -> None:
        patience = Patience(self._limits)
        try:
            while (lease := await self._next()) is not None:
                pause = await self._attempt(lease, patience)
                self._leases.release(lease)
                self._changed()
                if pause is None:
                    return
                await asyncio.sleep(pause)
        finally:
            self._live -= 1

    async def _next(self) -> Lease | None:
        """The next bytes to fetch; None when this connection is not needed any more."""
        loop = asyncio.get_running_loop()
        while not self._partial.complete:
            if self._live > self._ramp.target:
                return None
            if (wait := self._quiet_until - loop.time()) > 0:
                await asyncio.sleep(wait)
            elif (lease := self._lease()) is not None:
                return lease
            else:
                await self._news.wait()
        return None

    def _lease(self) -> Lease | None:
        size = self._partial.size
        gaps = self._partial.gaps()
        if (self._single or size is None) and (self._leases or not gaps):
            return None
        if self._single:
            # A server that ignores ranges sends all again; what is there already is left out.
            gaps = [(0, gaps[-1][1])]
        return self._leases.take(gaps, self._partial.written)

    async def _attempt(self, lease: Lease, patience: Patience) -> float | None:
        """Fetch a lease, or a part of it. Returns seconds to wait, None if this connection should end."""
        try:
            await self._fetcher.fetch(lease, patience, 0 if self._single else lease.start)
            return 0.0
        except (NetworkError, UnauthorizedError, NotFoundError) as error:
            if isinstance(error, ChangedError):
                raise
            if isinstance(error, RangesUselessError) and self._doubt(error):
                return 0.0
            if (pause := self._pause(error, patience)) is None:
                # The server may not want so many connections; what it has against the last one is told.
                if self._live == 1:
                    raise
                self._ramp.refused()
            return pause

    def _pause(self, error: StoreError, patience: Patience) -> float | None:
        """Seconds to wait before the next attempt, None if there should be none."""
        asked = error.retry_after if isinstance(error, NetworkError) else 0.0
        self._quiet_until = max(self._quiet_until, asyncio.get_running_loop().time() + min(asked, MAX_RETRY_AFTER))
        # A file that was served a moment ago is there; its signature or token may have come of age.
        passing = error.retryable or (self._requests.received > 0 and not isinstance(error, NetworkError))
        if not passing or (asked and self._live > 1):
            return None
        return patience.failed(random.random(), asked)  # noqa: S311 (jitter, no secret)

    def _doubt(self, error: RangesUselessError) -> bool:
        """Whether to stop asking for ranges; True the first time."""
        self._strikes += 1
        if self._single or not (error.ignored or self._strikes >= STRIKES):
            return False
        self._single = True
        self._ramp = Ramp(1)
        return True


def _worst(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one failure to report: a full disk explains the others."""
    found = [_worst(item) if isinstance(item, BaseExceptionGroup) else item for item in failures.exceptions]
    ranks = (NoSpaceError, StoreError, Exception)
    return min(found, key=lambda error: next((at for at, kind in enumerate(ranks) if isinstance(error, kind)), 9))
