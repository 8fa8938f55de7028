"""Follow objects of the API server for as long as the process lives. Used by `gateway.cluster.link`.

List (or get), then watch from there; a watch that ended is taken up again where it stopped, an expired one (410) begins
with a new list. A watch lasts half a minute at most and has a deadline a little later, so a connection that died in
silence is noticed in less than a minute.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from paddock_runner.gateway.cluster.client import ApiError, Client, Json

FIRST_DELAY = 0.2
LONGEST_DELAY = 15.0
GONE = 410

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What to follow: a collection, or one object of it by `name` (then no right to list is needed)."""

    resource: str
    path: str
    name: str = ""
    label_selector: str = ""

    def query(self) -> dict[str, str]:
        """The selectors of a list or watch."""
        query = {"labelSelector": self.label_selector, "fieldSelector": self.name and f"metadata.name={self.name}"}
        return {name: value for name, value in query.items() if value}


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: how long a watch is asked to last (at random between two bounds), and how much later it is given up."""

    shortest: float = 25.0
    longest: float = 35.0
    grace: float = 10.0


class Sink(Protocol):
    """Gets what was found; must not raise."""

    def replaced(self, objects: Sequence[Json]) -> None:
        """These are all objects there are."""

    def changed(self, kind: str, value: Json) -> None:
        """One object was ADDED, MODIFIED or DELETED."""


@dataclass(slots=True)
class Health:
    """What metrics tell of a watch. `last_event` is a Unix time, 0 before the first."""

    connected: bool = False
    last_event: float = 0.0


@dataclass(slots=True)
class Backoff:
    """Growing pauses with jitter, in seconds."""

    first: float = FIRST_DELAY
    longest: float = LONGEST_DELAY
    _failures: int = 0

    def next(self) -> float:
        """The next pause."""
        self._failures += 1
        return min(self.longest, self.first * 2.0 ** min(self._failures - 1, 16)) * random.uniform(0.5, 1.0)  # noqa: S311

    @property
    def failing(self) -> bool:
        """Whether there was a failure since the last good end."""
        return self._failures > 0

    def reset(self) -> None:
        """The next pause is the first again."""
        self._failures = 0


@dataclass(slots=True)
class Reflector:
    """One followed target."""

    client: Client
    target: Target
    sink: Sink
    failed: Callable[[], object] = lambda: None
    """Called when a watch has to begin again because something failed."""
    pace: Pace = field(default_factory=Pace)
    health: Health = field(default_factory=Health)
    _version: str | None = None
    _floor: int = 0
    _backoff: Backoff = field(default_factory=Backoff)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self._once()
            except ApiError as error:
                self._failed(error)
            except Exception:
                self._version, self.health.connected = None, False
                self.failed()
                log.exception("a watch failed", extra={"resource": self.target.resource})
            else:
                if time.monotonic() - began > 1:
                    self._backoff.reset()
                    continue
            await asyncio.sleep(self._backoff.next())

    async def _once(self) -> None:
        if self._version is None:
            await self._list()
        seconds = random.uniform(self.pace.shortest, self.pace.longest)  # noqa: S311
        query = {**self.target.query(), "allowWatchBookmarks": "true", "timeoutSeconds": str(max(1, round(seconds)))}
        if self._version:
            query["resourceVersion"] = self._version
        async with aclosing(self.client.watch(self.target.path, query, seconds + self.pace.grace)) as events:
            async for event in events:
                self._event(event)

    async def _list(self) -> None:
        target = self.target
        if not target.name:
            objects, version = await self.client.list(target.path, target.query())
        else:
            # Without a version the watch begins with the present state: an object's own may have expired long ago.
            objects, version = await self._get(f"{target.path}/{target.name}"), ""
        # A get is a quorum read, the cache behind a watch may be older: it must not bring back what was replaced.
        self._floor = max(map(_version_of, objects), default=self._floor)
        self._version = version
        self._alive()
        self.sink.replaced(objects)

    async def _get(self, path: str) -> list[Json]:
        try:
            return [await self.client.get(path)]
        except ApiError as error:
            if error.status == 404:
                return []
            raise

    def _event(self, event: Json) -> None:
        self._alive()
        kind, value = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            raise ApiError(int(value.get("code") or 0), str(value.get("message", "the watch failed"))[:500])
        if kind is None or _version_of(value) < self._floor:
            return
        self._version = str((value.get("metadata") or {}).get("resourceVersion") or self._version)
        if kind != "BOOKMARK":
            self.sink.changed(str(kind), value)

    def _alive(self) -> None:
        if not self.health.connected:
            log.info("connected to the API server", extra={"resource": self.target.resource})
        self.health.connected = True
        self.health.last_event = time.time()

    def _failed(self, error: ApiError) -> None:
        self.failed()
        if error.status == GONE:
            self._version = None
            return
        if self.health.connected:
            self._backoff.reset()
        if not self._backoff.failing:
            log.warning(
                "the API server cannot be watched, the last state stays in force",
                extra={"resource": self.target.resource, "problem": str(error)},
            )
        self.health.connected = False


def _version_of(value: Json) -> int:
    text = str((value.get("metadata") or {}).get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0
