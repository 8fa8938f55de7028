"""Run pulls or conversions of one Model: a child that reports progress and ends with a result or an error.

Called by `model`. Errors are tried again. What failed stays visible as failed meanwhile: a condition does not flap.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from paddock_operator.core.observed import PullObserved, PullResult
from paddock_operator.executors.local.backoff import Backoff
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.credentials import MISSING, Credentials, mounted
from paddock_operator.executors.local.process import Command, Event, Process, spawn

PROGRESS_SECONDS = 0.2
_RETRY_FIRST_SECONDS = 1.0
_NOT_HELD = ("Offline", "NotFound", "DigestMismatch")
"""What a child says that may ask only the cache, and does not find all there."""

Progress = Callable[[str, int, int, float], None]


class Puller:
    """`observed` is what the plan reads. `command` is the runner's: pull or convert.

    `on_progress` gets digest, completed, total, bytes per second. Each child gets the `credentials` of its start.
    After `tries` failures a request is given up (None: never).
    """

    def __init__(
        self,
        context: Context,
        name: str,
        on_change: Callable[[], None],
        on_progress: Progress,
        command: Literal["pull", "convert"] = "pull",
        *,
        tries: int | None = None,
    ) -> None:
        self._command = command
        self._tries = tries
        self._context = context
        self._name = name
        self._on_change = on_change
        self._on_progress = on_progress
        self._task: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._again = asyncio.Event()
        self._began = self._told = 0.0
        self.credentials: Credentials | None = None
        self.observed = PullObserved()

    def ensure(self, request: Mapping[str, Any] | None, key: str) -> None:
        """Have a child for `key` run or have run; None: none may run."""
        if request is None:
            self._cancel()
        elif self.observed.source_hash != key or (self._task is None and self.observed.result is None):
            self._cancel()
            self.observed = PullObserved("running", key)
            self._task = asyncio.create_task(self._until_done(json.dumps(request).encode()))
            self._on_change()

    def retry_now(self) -> None:
        """What it lacked may be there: a failed pull need not wait."""
        self._again.set()

    async def _until_done(self, request: bytes) -> None:
        backoff = Backoff(first=_RETRY_FIRST_SECONDS)
        while not await self._once(request) and self.observed.attempts != self._tries:
            self._on_change()
            self._again.clear()
            await self._pause(backoff.delay(0.0))
        self._on_change()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._again.wait(), seconds)
        except TimeoutError:
            return

    async def _once(self, request: bytes) -> bool:
        """One child; True when it brought a result."""
        self._began = self._told = time.monotonic()
        credentials = self.credentials
        try:
            with mounted(credentials, self._context.home.run) as folder:
                end = await self._run(request, _means(credentials, folder))
        except OSError as error:
            end = _failure("CacheUnusable", f"cannot run paddock-runner {self._command}: {error.strerror}")
        return self._finish(_explained(end, credentials))

    async def _run(self, request: bytes, means: tuple[list[str], dict[str, str]]) -> Event:
        argv = [*self._context.runner, self._command, "--models", str(self._context.home.models), "--request", "-"]
        ends: list[Event] = []
        command = Command(self._name, [*argv, *means[0]], stdin=request, env=means[1])
        self._process = await spawn(command, self._context.home.logs, lambda event: self._event(event, ends))
        code = await self._process.wait()
        return ends[-1] if ends else _failure("PullerCrashed", f"{self._command} ended with status {code}; see its log")

    def _finish(self, end: Event) -> bool:
        attempts = self.observed.attempts + 1
        if end["event"] != "error":
            checked = end["event"] == "checked"
            result = PullResult.from_check(end) if checked else PullResult.from_wire(end["result"])
            self.observed = replace(
                self.observed, state="succeeded", result=result, reason="", message="", attempts=attempts
            )
            return True
        self.observed = replace(
            self.observed,
            state="failed",
            reason=str(end.get("reason", "")),
            message=str(end.get("message", "")),
            retryable=bool(end.get("retryable")),
            attempts=attempts,
        )
        return False

    def _event(self, event: Event, ends: list[Event]) -> None:
        if event["event"] in ("result", "checked", "error"):
            ends.append(event)
        elif event["event"] == "progress":
            self._progress(str(event.get("digest", "")), int(event.get("completed", 0)), int(event.get("total", 0)))

    def _progress(self, digest: str, completed: int, total: int) -> None:
        self.observed = replace(self.observed, completed=completed, total=total)
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS or completed >= total:
            self._told = now
            self._on_progress(digest, completed, total, completed / max(now - self._began, 1e-3))
            self._on_change()

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self.kill()
            self.observed = PullObserved()
        self._task = None

    def kill(self) -> None:
        """End a running child at once: what it wrote so far has no final name."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        """End for good."""
        task = self._task
        self._cancel()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)
        if self._process is not None:
            await self._process.wait()


def _means(credentials: Credentials | None, folder: Path | None) -> tuple[list[str], dict[str, str]]:
    """Further arguments and variables of a child. Without the Secret that is named, only the cache is asked."""
    if folder is not None:
        return ["--credentials", str(folder)], {}
    return [], {"PADDOCK_OFFLINE": "1"} if credentials else {}


def _explained(end: Event, credentials: Credentials | None) -> Event:
    """The end of a child, with an error as a cluster would tell it: a Secret can be created or corrected."""
    if credentials is None or end["event"] != "error":
        return end
    if credentials.values is None and end.get("reason") in _NOT_HELD:
        return _failure(MISSING, credentials.missing)
    if end.get("reason") == "Unauthorized" and not end.get("retryable"):
        return _failure("Unauthorized", f"{end.get('message')}; correct the Secret of secretRef")
    return end


def _failure(reason: str, message: str) -> Event:
    return {"event": "error", "reason": reason, "message": message, "retryable": True}
