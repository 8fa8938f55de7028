"""Keeps one engine child in the wanted state: starts, loads, restarts, ends it. Called by `engine.client` only.

One life of a child: hello (vocabulary), load, ready, then frames until it ends. A life that ends unasked is a crash:
`state` says so during the back-off, and `on_lost` tells the client to fail what was running. Three failures to become
ready in a row leave the state `crashed` for good, with slow retries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from paddock_runner.core.crash import Crash
from paddock_runner.core.engine_facts import VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import DrainingError, EngineFailedError, EngineLoadingError
from paddock_runner.engine.process import EngineDiedError, EngineProcess, logger
from paddock_runner.engine.protocol import PROTOCOL_VERSION, Fatal, FromEngine, Hello, Load, Progress, Ready, Tokens

EngineState = Literal["starting", "loading", "ready", "unloaded", "crashed"]

LOAD_ATTEMPTS = 3
_MAX_WAITING_IN_ENGINE = 4096
# A child whose socket has closed is nearly always dying already; only a mad one needs to be killed.
_DYING_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class EngineTimings:
    """Seconds. `stall` is how long a busy engine may be silent (a step takes ≤ 0.2), `load_stall` a loading one."""

    backoff_first: float = 0.2
    backoff_most: float = 30.0
    good_after: float = 60.0
    stall: float = 30.0
    load_stall: float = 600.0
    end_grace: float = 2.0


class Supervised(Protocol):
    """What the supervisor tells and asks its owner. Called in the event loop; must not block or raise."""

    def on_state(self, state: EngineState) -> None: ...

    def on_tokens(self, tokens: Tokens) -> None: ...

    def on_lost(self, reason: str) -> None: ...

    def on_crash(self, crash: Crash) -> None: ...

    def is_busy(self) -> bool: ...


class EngineSupervisor:
    """Read `state`, `reason`, `vocab`, `ready`, `restarts`, `oom_kills`, `process`.

    Call `start`, `unload`, `wait_…`, `close`.
    """

    def __init__(
        self, model_paths: Sequence[Path], record: EngineRecord, owner: Supervised, timings: EngineTimings
    ) -> None:
        self.state: EngineState = "starting"  # also before the first start: nothing is loaded yet
        self.reason = ""
        self.vocab: VocabFacts | None = None
        self.ready: Ready | None = None
        self.restarts = 0
        self.oom_kills = 0
        self.process: EngineProcess | None = None
        self._retry_at = 0.0
        self._model_paths = model_paths
        self._record = record
        self._owner = owner
        self._timings = timings
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._closing = False
        self._deliberate = False
        self._failed_loads = 0
        self._backoff = timings.backoff_first
        self._last_frame = 0.0

    def start(self) -> None:
        """Begin, and keep a loaded engine from now on."""
        self._wanted.set()
        if self._task is None and not self._closing:
            self._task = asyncio.create_task(self._supervise())

    async def unload(self) -> None:
        """End the child and stay without one until `start` is called again."""
        self._wanted.clear()
        self._deliberate = True
        # Told before the child is gone: a request that comes now must wait for the next one.
        self._set_state("unloaded")
        if self.process is not None:
            await self.process.end(self._timings.end_grace)

    async def close(self) -> None:
        """End the child for good."""
        self._closing = True
        self._wanted.clear()
        self._pulse()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def wait_vocab(self) -> VocabFacts:
        """Raises EngineFailedError with the reason when the engine keeps failing, DrainingError when it is closed."""
        while self.vocab is None:
            self._check_hope()
            await self._change()
        return self.vocab

    async def wait_ready(self) -> Ready:
        """As `wait_vocab`, for the loaded engine."""
        while self.ready is None or self.state != "ready":
            self._check_hope()
            await self._change()
        return self.ready

    async def wait_ready_or_crash(self) -> EngineProcess:
        """The process to submit to. Raises EngineLoadingError as soon as the engine is in back-off."""
        while self.process is None or self.state != "ready":
            if self.state == "crashed":
                raise EngineLoadingError(f"the engine restarts: {self.reason}", self.retry_after())
            self._check_hope()
            await self._change()
        return self.process

    def retry_after(self) -> float:
        """Seconds until the next attempt to start the engine, at least 1."""
        return max(1.0, self._retry_at - time.monotonic())

    def _check_hope(self) -> None:
        if self._closing:
            raise DrainingError
        if self.state == "crashed" and self._failed_loads >= LOAD_ATTEMPTS:
            raise EngineFailedError(f"the model does not load: {self.reason}", self.retry_after())

    async def _supervise(self) -> None:
        while True:
            await self._wanted.wait()
            self._deliberate = False
            began = time.monotonic()
            reason = await self._one_life()
            if not self._deliberate:
                await self._back_off(reason, time.monotonic() - began)

    async def _one_life(self) -> str:
        """Returns why it ended."""
        self._set_state("starting")
        try:
            process = await EngineProcess.spawn(self._model_paths)
        except OSError as error:
            self._failed_loads += 1
            return f"the engine process does not start: {error}"
        self.process, self._last_frame = process, time.monotonic()
        watchdog = asyncio.create_task(self._watch(process))
        reason = "the engine process was ended"
        try:
            if not self._deliberate:
                await self._converse(process)
        except EngineDiedError as error:
            reason = str(error)
        finally:
            watchdog.cancel()
            reason = await self._bury(process, reason)
        return reason

    async def _bury(self, process: EngineProcess, reason: str) -> str:
        self.process, was_ready, self.ready = None, self.ready, None
        asked = self._deliberate or self._closing
        if not asked:
            self.reason, self._retry_at = reason, time.monotonic() + self._backoff
            self._set_state("crashed")
        # The requests hear of it before the corpse is cleared away: that can take as long as a core dump.
        self._owner.on_lost(reason)
        how = await process.end(self._timings.end_grace if asked else _DYING_SECONDS)
        if was_ready is None and not asked:
            self._failed_loads += 1
        self.oom_kills += process.out_of_memory
        words = how if process.out_of_memory or reason == "the engine process ended" else reason
        if not asked:
            self._owner.on_crash(Crash(process.cause, words, process.last, serving=was_ready is not None))
        return words

    async def _converse(self, process: EngineProcess) -> None:
        while True:
            message = await process.receive()
            self._last_frame = time.monotonic()
            if isinstance(message, Tokens):
                self._owner.on_tokens(message)
            else:
                self._on_phase(process, message)

    def _on_phase(self, process: EngineProcess, message: FromEngine) -> None:
        if isinstance(message, Hello):
            self._on_hello(process, message)
        elif isinstance(message, Ready):
            self.ready, self._failed_loads = message, 0
            self._set_state("ready")
        elif isinstance(message, Fatal):
            raise EngineDiedError(message.message)
        elif not isinstance(message, Progress):
            raise EngineDiedError(f"the engine process sent {type(message).__name__} out of turn")

    def _on_hello(self, process: EngineProcess, hello: Hello) -> None:
        if hello.version != PROTOCOL_VERSION:
            raise EngineDiedError(f"the engine speaks protocol {hello.version}, this front {PROTOCOL_VERSION}")
        self.vocab = hello.vocab
        self._set_state("loading")
        process.send(Load(self._record, _MAX_WAITING_IN_ENGINE))

    async def _watch(self, process: EngineProcess) -> None:
        """Kill a child that is silent although it has something to do: only a hang explains that."""
        while True:
            await asyncio.sleep(min(1.0, self._timings.stall / 4))
            limit = self._timings.stall if self.state == "ready" else self._timings.load_stall
            if not self._expects_frames():
                self._last_frame = time.monotonic()
            elif time.monotonic() - self._last_frame > limit:
                logger.error("the engine was silent for %.0f s although busy; it is ended", limit)
                process.kill()
                return

    def _expects_frames(self) -> bool:
        return self.state != "ready" or self._owner.is_busy()

    async def _back_off(self, reason: str, lived: float) -> None:
        if lived >= self._timings.good_after:
            self._backoff = self._timings.backoff_first
        hopeless = self._failed_loads >= LOAD_ATTEMPTS
        delay = self._timings.backoff_most if hopeless else self._backoff
        self._backoff = min(self._backoff * 2, self._timings.backoff_most)
        self.restarts += 1
        self.reason, self._retry_at = reason, time.monotonic() + delay
        logger.error("engine lost, next start in %.1f s: %s", delay, reason)
        self._set_state("crashed")
        await asyncio.sleep(delay)

    def _set_state(self, state: EngineState) -> None:
        if state == "ready":
            self.reason = ""
        if state != self.state:
            self.state = state
            self._owner.on_state(state)
        self._pulse()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()
