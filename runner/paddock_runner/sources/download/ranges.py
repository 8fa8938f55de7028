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
from paddock_runner.sources.download.leases import Lease, Leases
from paddock_runner.sources.download.pace import BusyError, Patience, Ramp
from paddock_runner.sources.download.requests import Incoming, Requests
from paddock_runner.sources.download.spool import Spool
from paddock_runner.sources.errors import NetworkError, UnauthorizedError
from paddock_runner.store.errors import NoSpaceError, NotFoundError, SizeMismatchError, StoreError
from paddock_runner.store.files import require_space
from paddock_runner.store.partial import PartialBlob

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

THREADS = 4
STRIKES = 2
SYNC_SECONDS = 2.0

Tell = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""


class NoLengthError(Exception):
    """The server does not say how long the file is."""


class ChangedError(NetworkError):
    """Two answers of one server are of two versions of the file."""


class Ranges:
    """One download into `partial`. `careful`: one plain request, whatever came before was wrong."""

    def __init__(self, requests: Requests, partial: PartialBlob, tell: Tell, careful: bool = False) -> None:
        self._requests = requests
        self._limits = requests.limits
        self._partial = partial
        self._tell = tell
        self._careful = careful
        self._single = careful
        self._strikes = 0
        self._etags: dict[str, str] = {}
        self._leases = Leases(self._limits.segment_bytes, self._limits.window_bytes)
        self._ramp = Ramp(1 if careful else requests.connections)
        self._live: set[int] = set()
        self._quiet_until = 0.0
        self._news = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="download")

    async def run(self) -> None:
        """Return when every byte is there and hashed.

        Raises NetworkError, UnauthorizedError, NotFoundError, NotGGUFError, SizeMismatchError, NoSpaceError,
        CacheUnusableError; NoLengthError and ChangedError for `sources.download.blob`.
        """
        try:
            async with self._group as group:
                helpers = [group.create_task(work()) for work in (self._tick, self._sync, self._requests.watch.run)]
                group.create_task(self._hash())
                self._start(0)
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
        while not self._partial.complete:
            if self._partial.can_advance:
                await self._in_thread(self._partial.advance)
                self._changed()
            else:
                await self._news.wait()

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(min(SYNC_SECONDS, self._limits.tick_seconds) / 10)
            due = self._partial.unsynced and loop.time() - last > SYNC_SECONDS
            if due or self._partial.unsynced >= self._limits.sync_bytes:
                await self._in_thread(self._partial.sync)
                self._require_space()
                last = loop.time()

    def _require_space(self) -> None:
        missing = (self._partial.size or 0) - self._partial.done
        require_space(self._partial.path.parent, missing, f"the rest of the file from {self._requests.host}")

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            received, then = self._requests.received, loop.time()
            await asyncio.sleep(self._limits.tick_seconds)
            self._ramp.observe((self._requests.received - received) / (loop.time() - then))
            for number in range(1, self._ramp.target):
                self._start(number)
            self._changed()

    # Connections

    def _start(self, number: int) -> None:
        if number not in self._live:
            self._live.add(number)
            self._group.create_task(self._connection(number))

    async def _connection(self, number: int) -> None:
        patience = Patience(self._limits)
        try:
            while (lease := await self._next(number)) is not None:
                pause = await self._attempt(number, lease, patience)
                self._leases.release(lease)
                self._changed()
                if pause is None:
                    return
                await asyncio.sleep(pause)
        finally:
            self._live.discard(number)

    async def _next(self, number: int) -> Lease | None:
        """The next bytes to fetch; None when this connection is not needed any more."""
        loop = asyncio.get_running_loop()
        while not self._partial.complete:
            if number and number >= self._ramp.target:
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

    async def _attempt(self, number: int, lease: Lease, patience: Patience) -> float | None:
        """Fetch a lease, or a part of it. Returns seconds to wait, None if this connection should end."""
        try:
            await self._fetch(lease, patience)
            return 0.0
        except (NetworkError, UnauthorizedError, NotFoundError) as error:
            if isinstance(error, ChangedError):
                raise
            if isinstance(error, RangesUselessError) and self._doubt(error):
                return 0.0
            if number and not (isinstance(error, NetworkError) and error.retryable):
                self._ramp.refused()
                return None
            if not isinstance(error, NetworkError):
                raise
            return self._failed(number, error, patience)

    def _failed(self, number: int, error: NetworkError, patience: Patience) -> float | None:
        busy = isinstance(error, BusyError)
        if isinstance(error, BusyError):
            self._quiet_until = max(self._quiet_until, asyncio.get_running_loop().time() + error.retry_after)
        try:
            if not (number and busy):
                return patience.failed(error, random.random())  # noqa: S311 (jitter, no secret)
        except NetworkError:
            if not number:
                raise
        self._ramp.refused()
        return None

    def _doubt(self, error: RangesUselessError) -> bool:
        """Whether to stop asking for ranges; True the first time."""
        self._strikes += 1
        if self._single or not (error.ignored or self._strikes >= STRIKES):
            return False
        self._single = True
        self._ramp = Ramp(1)
        return True

    async def _fetch(self, lease: Lease, patience: Patience) -> None:
        start = 0 if self._single else lease.start
        async with self._requests.open(start, lease.end, self._partial.size) as incoming:
            self._agree(incoming, lease)
            await self._copy(incoming, lease, patience)

    def _agree(self, incoming: Incoming, lease: Lease) -> None:
        """Hold the answer against the earlier ones."""
        known = self._etags.setdefault(incoming.place, incoming.etag)
        if known and incoming.etag and known != incoming.etag and not self._careful:
            raise ChangedError(f"the file changed at {self._requests.host} while it was downloaded")
        if self._partial.size is None:
            if incoming.body.total is None:
                raise NoLengthError
            self._partial.begin(incoming.body.total)
            lease.end = incoming.body.total
            self._require_space()

    async def _copy(self, incoming: Incoming, lease: Lease, patience: Patience) -> None:
        spool = Spool(self._partial, lease, incoming.body.start)
        try:
            async for data in self._requests.pieces(incoming):
                self._check_total(incoming)
                spool.add(data, min(lease.end, incoming.body.end) - spool.reached)
                if spool.count >= self._limits.chunk_bytes:
                    await self._flush(spool, incoming, patience)
                if spool.reached >= min(lease.end, incoming.body.end):
                    break
        except BaseException:
            if spool.rescue():
                patience.progress()
            raise
        self._check_total(incoming)
        await self._flush(spool, incoming, patience)
        if spool.reached < (end := min(lease.end, incoming.body.end)):
            raise NetworkError(f"{self._requests.host}: the connection ended after {spool.reached} of {end} bytes")

    def _check_total(self, incoming: Incoming) -> None:
        total, size = incoming.body.total, self._partial.size
        if total is not None and size is not None and total != size:
            raise SizeMismatchError(f"the file of {self._requests.host}", size, total)

    async def _flush(self, spool: Spool, incoming: Incoming, patience: Patience) -> None:
        async def write(offset: int, parts: list[bytes | memoryview]) -> None:
            await self._in_thread(self._partial.write, offset, parts)

        with incoming.watched.held():
            new = await spool.flush(write)
        if new:
            patience.progress()
            self._tell(self._partial.done, self._partial.size or 0)
            self._changed()


def _worst(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one failure to report: a full disk explains the others."""
    found = [_worst(item) if isinstance(item, BaseExceptionGroup) else item for item in failures.exceptions]
    ranks = (NoSpaceError, StoreError, Exception)
    return min(found, key=lambda error: next((at for at, kind in enumerate(ranks) if isinstance(error, kind)), 9))
