"""Tell the operator which configuration is in force: a key of our own in one ConfigMap. Run by `gateway.cluster.link`.

At most one write per second; a failure is retried with back-off and never touches traffic. The ConfigMap is looked at
now and then, so that a report comes back after somebody lost it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from paddock_runner.gateway.cluster.client import ApiError, Client
from paddock_runner.gateway.cluster.reflector import Backoff

WRITE_SECONDS = 1.0
ABSENT_SECONDS = 5.0
LOOK_SECONDS = 60.0
LEAVE_SECONDS = 2.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reporter:
    """`path` is the ConfigMap's, `pod` the key, `config` reads the SHA-256 in force; `failures` counts failed calls."""

    client: Client
    path: str
    pod: str
    config: Callable[[], str]
    failed: Callable[[], object]
    look_seconds: float = LOOK_SECONDS
    _reported: str = ""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _backoff: Backoff = field(default_factory=lambda: Backoff(WRITE_SECONDS * 2))

    def changed(self) -> None:
        """A configuration came into force."""
        self._wake.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._once()
            except ApiError as error:
                await asyncio.sleep(self._pause(error))
                continue
            self._backoff.reset()
            await asyncio.sleep(WRITE_SECONDS)
            await self._wait()

    async def leave(self) -> None:
        """Take our key away: this pod ends. Nothing waits long for it, and nothing depends on it."""
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.client.merge_patch(self.path, {"data": {self.pod: None}})

    async def _once(self) -> None:
        config = self.config()
        if config == self._reported:
            self._reported = await self._stored()
        if config != self._reported:
            value = {"config": config, "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
            await self.client.merge_patch(self.path, {"data": {self.pod: json.dumps(value)}})
            self._reported = config

    async def _stored(self) -> str:
        data = (await self.client.get(self.path)).get("data") or {}
        try:
            return str(json.loads(data[self.pod])["config"])
        except (KeyError, TypeError, ValueError):
            return ""

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self.look_seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _pause(self, error: ApiError) -> float:
        self._reported = ""
        self.failed()
        log.warning("the configuration in force could not be reported", extra={"problem": str(error)})
        return ABSENT_SECONDS if error.status == 404 else self._backoff.next()
