"""Requests that wait until a runner of their Model can take them: it rolls, restarts or moves. Called by `inference`.

They wait outside the Endpoint's places, so a Model without runners takes nothing from the others; at most `queueDepth`
of them, at most `queueSeconds` each. Only Models with a Service are waited for: there somebody is about to come.
"""

from __future__ import annotations

import time

from paddock_runner.core.gateway_config import Limits, Model
from paddock_runner.gateway.backends import Backends
from paddock_runner.gateway.directory import Directory
from paddock_runner.gateway.errors import BUSY, not_ready, retry_after

LONGEST_LOOK = 5.0


class Holds:
    """`held` counts those that wait now."""

    def __init__(self, directory: Directory, backends: Backends) -> None:
        self._directory = directory
        self._backends = backends
        self.held = 0

    async def wait(self, model: Model, limits: Limits, deadline: float) -> None:
        """Return when a runner may be asked. Raises `Refusal`; at `deadline` (monotonic) at the latest."""
        if not model.ready or not (model.service or model.backends):
            raise not_ready(model)
        if not model.service or self._seconds(model) == 0:
            return
        if not limits.queue_depth:
            raise not_ready(model)
        if self.held >= limits.queue_depth:
            raise retry_after("queue_full", BUSY, 1)
        self.held += 1
        try:
            await self._wait(model, deadline)
        finally:
            self.held -= 1

    async def _wait(self, model: Model, deadline: float) -> None:
        while (seconds := self._seconds(model)) > 0:
            left = deadline - time.monotonic()
            if left <= 0:
                raise not_ready(model)
            await self._directory.change(min(seconds, left, LONGEST_LOOK))

    def _seconds(self, model: Model) -> float:
        return self._backends.pause(self._directory.urls(model))
