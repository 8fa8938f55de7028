"""Keep one program alive: start it, start it again after a crash with bounded back-off, end it on request.

Called by `model` (runners) and `endpoint` (gateways). `on_change` is rung whenever the address or the life of the
program changes; whoever is rung reads the attributes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from paddock_operator.executors.local.backoff import Backoff
from paddock_operator.executors.local.process import Command, Event, Process, spawn

_LATE_GRACE_SECONDS = 1.0


class Supervisor:
    """`address` is where it listens now ("" while it does not), `restarts` counts lives after the first."""

    def __init__(
        self,
        command: Command,
        logs: Path,
        on_change: Callable[[], None],
        on_event: Callable[[Event], None] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.command = command
        self.address = ""
        self.restarts = 0
        self.last_exit: int | None = None
        self._logs = logs
        self._on_change = on_change
        self._on_event = on_event
        self._backoff = backoff or Backoff()
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._keep())

    @property
    def pid(self) -> int:
        """Process id, 0 while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            lived = await self._live()
            if self._stopping.is_set():
                break
            self.restarts += 1
            self._on_change()
            await self._pause(self._backoff.delay(lived))

    async def _live(self) -> float:
        """One life of the program; its length in seconds."""
        began = time.monotonic()
        try:
            process = self._process = await spawn(self.command, self._logs, self._event)
        except OSError:
            self.last_exit = 127
            return 0.0
        if self._stopping.is_set():
            # Asked to stop while it was being started: `stop` could not see it yet.
            await process.stop(_LATE_GRACE_SECONDS)
        self._on_change()
        self.last_exit = await process.wait()
        self.address = ""
        return time.monotonic() - began

    async def _pause(self, seconds: float) -> None:
        waiter = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([waiter], timeout=seconds)
        waiter.cancel()

    def _event(self, event: Event) -> None:
        if event["event"] == "listening":
            self.address = str(event.get("address", ""))
            self._on_change()
        if self._on_event is not None:
            self._on_event(event)

    def restart(self) -> None:
        """SIGKILL to this life; the next one begins after the back-off."""
        if self._process is not None:
            self._process.kill()

    async def stop(self, grace: float) -> None:
        """End it: SIGTERM, at most `grace` seconds, SIGKILL. It does not start again."""
        self._stopping.set()
        if self._process is not None:
            await self._process.stop(grace)
        await self._task

    def kill(self) -> None:
        """SIGKILL to it and its process group; it does not start again."""
        self._stopping.set()
        self.restart()
