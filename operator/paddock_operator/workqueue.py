"""A deduplicating queue of keys with delays. Filled by rings, emptied by the workers of `controller`.

A key waits once and is worked on by one worker at a time; rung while busy, it runs again; of two delays the earlier
counts. Times are those of the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Use within one event loop."""

    def __init__(self) -> None:
        self._ready: OrderedDict[K, float] = OrderedDict()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._filled = asyncio.Event()

    def add(self, key: K, after: float = 0.0) -> None:
        """Hand out `key` in `after` seconds at the latest."""
        if after > 0:
            self._delay(key, self._now() + after)
        elif key in self._busy:
            self._again.add(key)
        else:
            self._due.pop(key, None)
            self._ready.setdefault(key, self._now())
            self._filled.set()

    async def get(self) -> K:
        """The key that waits longest; call `done` with it."""
        while not self._ready:
            self._filled.clear()
            await self._filled.wait()
        key, _ = self._ready.popitem(last=False)
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker is done with `key`."""
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def forget(self, key: K) -> None:
        """Drop a planned later look; a key that is ready or rung stays."""
        self._due.pop(key, None)

    @property
    def depth(self) -> int:
        """Keys that are ready and wait for a worker."""
        return len(self._ready)

    @property
    def busy(self) -> int:
        """Keys that are worked on."""
        return len(self._busy)

    def oldest_seconds(self) -> float:
        """How long the first ready key has waited."""
        since = next(iter(self._ready.values()), None)
        return 0.0 if since is None else self._now() - since

    def _delay(self, key: K, due: float) -> None:
        if key in self._ready or self._due.get(key, due + 1.0) <= due:
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, key))
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._ripe)

    def _ripe(self) -> None:
        """Make keys ready whose time has come; entries that an earlier ring overtook are stale."""
        while self._heap and self._heap[0][0] <= self._now():
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._set_timer()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
