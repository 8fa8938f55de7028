"""A deduplicating, level-triggered queue: ring a key, and its work runs once more after now.

Called by `controller`. One key is never worked on twice at a time, and no key waits for another: each has a task of
its own while there is something to do (their number is bounded by that of the objects).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from paddock_operator.executors.local.backoff import Backoff

K = TypeVar("K", bound=Hashable)


class KeyedQueue(Generic[K]):
    """Calls `work(key)` after each ring; an exception goes to `failed` and the key rings again with back-off.

    `idle` is called whenever nothing is left to do.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[None]],
        failed: Callable[[K, Exception], None],
        idle: Callable[[], None] | None = None,
    ) -> None:
        self._work = work
        self._failed = failed
        self._idle = idle
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._rung: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._backoffs: dict[K, Backoff] = {}
        self._closed = False

    def ring(self, key: K) -> None:
        """Work on `key` soon; rings while it waits or works are one."""
        if self._closed:
            return
        self._rung.add(key)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._run(key))

    def ring_later(self, key: K, seconds: float) -> None:
        """Ring `key` after `seconds`, unless a later call of this method set another time."""
        self._cancel_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.ring, key)

    def forget(self, key: K) -> None:
        """Drop timers and back-off of a key that is gone."""
        self._cancel_timer(key)
        self._backoffs.pop(key, None)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def _run(self, key: K) -> None:
        try:
            while key in self._rung and not self._closed:
                self._rung.discard(key)
                await self._once(key)
        finally:
            # No await since the last look at `_rung`: a ring cannot fall between.
            self._tasks.pop(key, None)
        if not self._tasks and self._idle is not None and not self._closed:
            self._idle()

    async def _once(self, key: K) -> None:
        try:
            await self._work(key)
            self._backoffs.pop(key, None)
        except Exception as error:
            self._failed(key, error)
            self.ring_later(key, self._backoffs.setdefault(key, Backoff()).delay(0.0))

    async def close(self) -> None:
        """No more work; returns when what runs has ended."""
        self._closed = True
        for key in list(self._timers):
            self._cancel_timer(key)
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
