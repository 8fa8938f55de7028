"""The workers: take a key, reconcile it, plan its next look. Made by `app`; it knows nothing of Kubernetes' objects.

A key that fails waits longer each time and never holds up another one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from time import perf_counter

from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.metrics import Metrics
from paddock_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

FIRST_DELAY, MAX_DELAY = 1.0, 300.0
RECONCILE_SECONDS = 120.0
JITTER = 0.1
QUIET_CODES = (0, 409, 429)
"""Refusals that the next try cures by itself: nobody has to read a traceback."""

Reconcile = Callable[[Ref], Awaitable[float | None]]


class Controller:
    """`reconcile` returns seconds until the next look, infinity for the resync only, None when the key is gone."""

    def __init__(self, reconcile: Reconcile, workers: int, resync_seconds: float, metrics: Metrics) -> None:
        self.queue: WorkQueue[Ref] = WorkQueue()
        self._reconcile, self._workers, self._resync, self._metrics = reconcile, workers, resync_seconds, metrics
        self._failures: dict[Ref, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def ring(self, key: Ref, after: float = 0.0) -> None:
        """Reconcile `key` in `after` seconds at the latest."""
        self.queue.add(key, after)

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [asyncio.create_task(self._work(), name=f"worker {number}") for number in range(self._workers)]

    async def stop(self) -> None:
        """Take no more keys, and cut what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self) -> None:
        """Wait for the workers, which only end by an error of their own."""
        await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self._once(key)
            finally:
                self.queue.done(key)

    async def _once(self, key: Ref) -> None:
        began = perf_counter()
        try:
            async with asyncio.timeout(RECONCILE_SECONDS):
                after = await self._reconcile(key)
        except Exception as error:
            self._metrics.reconciled(key.kind, "error", perf_counter() - began)
            self.queue.add(key, self._failed(key, error))
            return
        self._metrics.reconciled(key.kind, "gone" if after is None else "ok", perf_counter() - began)
        self._failures.pop(key, None)
        if after is None:
            self.queue.forget(key)
        else:
            self.queue.add(key, min(after, self._jittered(self._resync)))

    def _failed(self, key: Ref, error: Exception) -> float:
        """Log a failure and return the seconds until the next try."""
        self._failures[key] = failures = self._failures.get(key, 0) + 1
        delay = self._jittered(min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 20)))
        if isinstance(error, ApiError):
            level = logging.INFO if error.status in QUIET_CODES else logging.WARNING
            log.log(level, "%s: %s; again in %.0f s", key, error, max(delay, error.retry_after or 0.0))
            return max(delay, error.retry_after or 0.0)
        log.error("%s failed: %r; again in %.0f s", key, error, delay, exc_info=error)
        return delay

    @staticmethod
    def _jittered(seconds: float) -> float:
        return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
