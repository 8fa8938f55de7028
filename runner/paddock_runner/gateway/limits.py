"""How much at once and how often: a bounded first-in-first-out gate and token buckets.

Called by `gateway.inference` (requests) and `gateway.auth` (failed attempts).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from paddock_runner.core.gateway_config import Limits
from paddock_runner.gateway.errors import BUSY, retry_after

MAX_BUCKETS = 10_000


class Buckets:
    """Token buckets by name; the least recently used are forgotten, so that the memory is bounded."""

    def __init__(self) -> None:
        self._state: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, per_minute: float, now: float, *, burst: float | None = None) -> float:
        """Take one token; 0 when there was one, else the seconds until there is. `now` is monotonic, in seconds."""
        size = burst or per_minute
        tokens, since = self._state.get(name, (size, now))
        tokens = min(size, tokens + (now - since) * per_minute / 60)
        taken = tokens >= 1
        self._state[name] = (tokens - taken, now)
        self._state.move_to_end(name)
        if len(self._state) > MAX_BUCKETS:
            self._state.popitem(last=False)
        return 0.0 if taken else (1 - tokens) * 60 / per_minute


class Gate:
    """Lets `concurrency` requests run and `queue_depth` wait, in order of arrival, at most `queue_seconds` each.

    The limits may change between two requests; those of the newest arrival rule.
    """

    def __init__(self) -> None:
        self.running = 0
        self._concurrency = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._waiters)

    async def enter(self, limits: Limits, seconds: float | None = None) -> None:
        """Take a place; whoever returned from here calls `leave` once.

        Raises `Refusal` at once when the queue is full, and after `seconds` (by default `queue_seconds`) of waiting.
        """
        self._concurrency = limits.concurrency
        if self._has_place() and not self._waiters:
            self.running += 1
            return
        if len(self._waiters) >= limits.queue_depth:
            raise retry_after("queue_full", BUSY, 1)
        await self._wait(limits.queue_seconds or None if seconds is None else seconds)

    def leave(self) -> None:
        """Give the place back; the longest waiting request gets it."""
        self.running -= 1
        while self._waiters and self._has_place():
            self._waiters.popleft().set_result(None)
            self.running += 1

    def _has_place(self) -> bool:
        return not self._concurrency or self.running < self._concurrency

    async def _wait(self, seconds: float | None) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(turn)
        except BaseException as error:
            if turn.done():
                self.leave()  # the place came in the same moment as the end of the wait
            else:
                self._waiters.remove(turn)
            if isinstance(error, TimeoutError):
                raise retry_after("queue_timeout", BUSY, 1) from None
            raise
