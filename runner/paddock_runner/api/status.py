"""What a runner says of itself: the body of `/readyz` and the `state` lines on stdout. Used by `ops` and `serve`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from paddock_runner.core.engine_facts import MemoryNumbers

WATCH_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Status:
    """`config` is the SHA-256 of the configuration in force, `memory` bytes by use, `reason` empty when ready."""

    ready: bool
    reason: str
    state: str
    config: str
    digest: str
    restarts: int
    oom_kills: int
    memory: Mapping[str, int]

    def body(self) -> dict[str, Any]:
        """The members of `/readyz`."""
        return {
            "ready": self.ready,
            **({} if self.ready else {"reason": self.reason}),
            "state": self.state,
            "config": self.config,
            "digest": self.digest,
            "restarts": self.restarts,
            "oomKills": self.oom_kills,
            "memory": dict(self.memory),
        }

    def event(self) -> dict[str, Any]:
        """The members of a `state` line."""
        return {"event": "state", **self.body(), "reason": self.reason}


def shown_memory(memory: MemoryNumbers | None) -> dict[str, int]:
    """The part of the engine's numbers that is published; zeros while no weights are loaded."""
    return {name: getattr(memory, name) if memory else 0 for name in ("weights", "kv", "resident")}


class StateLines:
    """Prints a line whenever anything but memory changes. `now` gives the status, `write` takes a line."""

    def __init__(self, now: Callable[[], Status], write: Callable[[str], object] | None = None) -> None:
        self._now = now
        self._write = write or _to_stdout
        self._told: dict[str, Any] = {}

    def tell(self) -> None:
        """Print the state if it is news."""
        event = self._now().event()
        essence = {name: value for name, value in event.items() if name != "memory"}
        if essence != self._told:
            self._told = essence
            self._write(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n")

    async def watch(self) -> None:
        """Look a few times a second until cancelled: reasons and counts change without anybody's call."""
        while True:
            self.tell()
            await asyncio.sleep(WATCH_SECONDS)


def _to_stdout(line: str) -> None:
    with suppress(OSError, ValueError):  # whoever read these lines is gone; clients are served all the same
        sys.stdout.write(line)
        sys.stdout.flush()
