"""The HTTP front's handle on its engine: the requests that run in one child. Called by `api` and `commands.serve`.

asyncio, one event loop. `EngineClient` turns frames into `core.generation` events and back, bounds the queue, holds
sequences of slow readers, and unloads an idle engine; `engine.supervisor` keeps the child alive.
Nothing here imports llama.cpp.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from paddock_runner.core.crash import Cause, Crash, describe
from paddock_runner.core.embedding import EmbedDone, EmbedEvent, EmbedRequest
from paddock_runner.core.engine_facts import MemoryNumbers, StepStats, VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import (
    DrainingError,
    EngineFailedError,
    EngineLoadingError,
    Event,
    Finished,
    GenerationRequest,
    InvalidRequestError,
    QueueFullError,
)
from paddock_runner.engine.failures import from_wire
from paddock_runner.engine.process import logger
from paddock_runner.engine.procfs import resident_bytes
from paddock_runner.engine.protocol import Cancel, Embed, Failed, Hold, Ready, Release, SequenceEvent, Submit, Tokens
from paddock_runner.engine.streams import AnyEvent, Flow, Stream
from paddock_runner.engine.supervisor import EngineState, EngineSupervisor, EngineTimings

__all__ = ["EngineClient", "EngineObserver", "EngineState", "EngineTimings"]


class EngineObserver(Protocol):
    """Hooks for metrics. Called in the event loop; must not block or raise."""

    def on_state(self, state: EngineState) -> None: ...

    def on_step(self, stats: StepStats) -> None: ...

    def on_crash(self, cause: Cause) -> None: ...

    def on_event(self, request_id: str, event: AnyEvent) -> None: ...


class EngineClient:
    """One Model's engine.

    Read `state`, `reason`, `vocab`, `memory`, `ready` (threads, flash attention, cells), `restarts`,
    `oom_kills`, `stats` (last step), `last_load_seconds`, `open_requests`, `pid`.
    `model` is a GGUF file, or all parts of a split one in order. `queue_depth` may be changed at any time.
    """

    def __init__(
        self,
        model: Path | Sequence[Path],
        record: EngineRecord,
        *,
        queue_depth: int = 64,
        observer: EngineObserver | None = None,
        timings: EngineTimings | None = None,
    ) -> None:
        self.queue_depth = queue_depth
        self.stats: StepStats | None = None
        self.last_load_seconds: float | None = None
        self._record = record
        self._observer = observer
        paths = (model,) if isinstance(model, Path) else tuple(model)
        self._supervisor = EngineSupervisor(paths, record, self, timings or EngineTimings())
        self._handles = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._closed = False
        self._keep_alive = -1.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._unloading: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> EngineState:
        return self._supervisor.state

    @property
    def reason(self) -> str:
        """Why the engine is not ready; empty when it is."""
        return self._supervisor.reason

    @property
    def vocab(self) -> VocabFacts | None:
        return self._supervisor.vocab

    @property
    def ready(self) -> Ready | None:
        return self._supervisor.ready

    @property
    def cells(self) -> int:
        """Tokens that the KV cache holds: what llama.cpp made of the record's number; 0 while nothing is loaded."""
        return 0 if self.ready is None else self.ready.cells

    @property
    def restarts(self) -> int:
        return self._supervisor.restarts

    @property
    def oom_kills(self) -> int:
        """How many of the restarts came from the kernel's want of memory."""
        return self._supervisor.oom_kills

    @property
    def open_requests(self) -> int:
        return len(self._streams)

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._supervisor.process.pid if self._supervisor.process else None

    @property
    def memory(self) -> MemoryNumbers | None:
        """Bytes as llama.cpp reported them at load, `resident` as of now; None while no weights are loaded."""
        ready, pid = self._supervisor.ready, self.pid
        if ready is None or pid is None:
            return None
        return dataclasses.replace(ready.memory, resident=resident_bytes(pid) or ready.memory.resident)

    async def start(self) -> VocabFacts:
        """Start the child; returns when the vocabulary is known, while the weights load.

        Raises EngineFailedError when it keeps failing.
        """
        self._check_open()
        self._supervisor.start()
        return await self._supervisor.wait_vocab()

    async def load(self) -> Ready:
        """Have the weights loaded (also after `unload`); returns after the self-test. Raises EngineFailedError."""
        self._check_open()
        self._supervisor.start()
        return await self._supervisor.wait_ready()

    async def unload(self) -> None:
        """End the child once no request runs; the vocabulary facts stay. A later request or `load` starts it again."""
        await self._idle.wait()
        await self._supervisor.unload()

    async def close(self) -> None:
        """End everything. Open requests get DrainingError; later calls too."""
        self._closed = True
        self._disarm()
        for stream in self._streams.values():
            stream.fail(DrainingError())
        if self._unloading is not None:
            self._unloading.cancel()
            with suppress(asyncio.CancelledError):
                await self._unloading
        await self._supervisor.close()

    def keep_alive(self, seconds: float) -> None:
        """Unload `seconds` after the last request's end; 0 as soon as idle; negative never."""
        self._keep_alive = seconds
        self._arm()

    def generate(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """Run one request; yields Started, Deltas, Finished.

        Closing the iterator cancels the sequence within one step. Raises QueueFullError, EngineLoadingError (in
        back-off), DrainingError at once; ContextExceededError, InvalidRequestError, EngineFailedError when the engine
        says so or dies. While the engine is unloaded the request loads it and waits.
        """
        return cast(AsyncIterator[Event], self._run(request))

    def embed(self, request: EmbedRequest) -> AsyncIterator[EmbedEvent]:
        """Run one request of a Model of mode Embed or Rerank; yields Embedded for each text, then EmbedDone.

        Cancelled and refused as `generate`.
        """
        return cast(AsyncIterator[EmbedEvent], self._run(request))

    async def _run(self, request: GenerationRequest | EmbedRequest) -> AsyncIterator[AnyEvent]:
        stream = self._open(request)
        try:
            await self._submit(stream, request)
            while True:
                event, flow = await stream.take()
                self._send_flow(stream, flow)
                yield event
                if isinstance(event, Finished | EmbedDone):
                    return
        finally:
            self._close(stream)

    def _open(self, request: GenerationRequest | EmbedRequest) -> Stream:
        self._check_open()
        waiting = len(self._streams) - self._record.slots
        if waiting >= self.queue_depth:
            raise QueueFullError(max(0, waiting), self._expected_wait(waiting))
        if self.state == "crashed":
            raise EngineLoadingError(f"the engine restarts: {self.reason}", self._supervisor.retry_after())
        self._disarm()
        stream = Stream(next(self._handles), request.request_id)
        self._streams[stream.handle] = stream
        self._idle.clear()
        return stream

    def _expected_wait(self, waiting: int) -> float:
        """Seconds as the engine measured them lately; a guess as long as it has not."""
        measured = self.stats.expected_seconds if self.stats else 0.0
        return max(1.0, measured) if measured else 1.0 + waiting / self._record.slots

    async def _submit(self, stream: Stream, request: GenerationRequest | EmbedRequest) -> None:
        self._supervisor.start()
        process = await self._supervisor.wait_ready_or_crash()
        try:
            process.send(_submission(stream.handle, request))
        except UnicodeEncodeError as error:
            raise InvalidRequestError("prompt", "is not valid Unicode: it has a lone surrogate") from error
        except (ValueError, OverflowError) as error:
            raise InvalidRequestError("request", f"cannot be sent to the engine: {error}") from error
        stream.submitted = True
        await process.flush()

    def _close(self, stream: Stream) -> None:
        del self._streams[stream.handle]
        if stream.submitted and not stream.ended and self._supervisor.process is not None:
            self._supervisor.process.send(Cancel(stream.handle))
        if not self._streams:
            self._idle.set()
            self._arm()

    def _send_flow(self, stream: Stream, flow: Flow | None) -> None:
        if flow is None or stream.ended or self._supervisor.process is None:
            return
        self._supervisor.process.send(Hold(stream.handle) if flow == "hold" else Release(stream.handle))

    def on_state(self, state: EngineState) -> None:
        """Supervisor's hook."""
        if state == "ready" and self._supervisor.ready is not None:
            self.last_load_seconds = self._supervisor.ready.load_seconds
            self._arm()
        if self._observer is not None:
            self._observer.on_state(state)

    def on_tokens(self, tokens: Tokens) -> None:
        """Supervisor's hook: hand a step's events to their streams."""
        for item in tokens.events:
            stream = self._streams.get(item.handle)
            if stream is not None:
                self._deliver(stream, item)
        if tokens.stats is not None:
            self.stats = tokens.stats
            if self._observer is not None:
                self._observer.on_step(tokens.stats)

    def _deliver(self, stream: Stream, item: SequenceEvent) -> None:
        if isinstance(item.event, Failed):
            stream.fail(from_wire(item.event))
            return
        self._send_flow(stream, stream.put(item.event))
        if self._observer is not None:
            self._observer.on_event(stream.request_id, item.event)

    def on_lost(self, reason: str) -> None:
        """Supervisor's hook: the child is gone and with it all that ran in it."""
        for stream in self._streams.values():
            if stream.submitted:
                stream.fail(EngineFailedError(f"the engine was lost under this request: {reason}"))

    def on_crash(self, crash: Crash) -> None:
        """Supervisor's hook, once it is known how the child died."""
        logger.error(
            "engine crash (%s) %s; loaded with %d cells for %d slots in batches of %d: %s",
            crash.cause,
            describe(crash.last, {}) if crash.serving else "while loading or in the self-test",
            self._record.cells,
            self._record.slots,
            self._record.batch,
            crash.words,
        )
        if self._observer is not None:
            self._observer.on_crash(crash.cause)

    def is_busy(self) -> bool:
        """Supervisor's question: do frames have to come?"""
        return any(stream.submitted and not stream.ended and not stream.held for stream in self._streams.values())

    def _check_open(self) -> None:
        if self._closed:
            raise DrainingError

    def _disarm(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _arm(self) -> None:
        self._disarm()
        if self._keep_alive >= 0 and not self._streams and not self._closed:
            self._idle_timer = asyncio.get_running_loop().call_later(self._keep_alive, self._on_idle_timer)

    def _on_idle_timer(self) -> None:
        if self.state == "ready" and not self._streams:
            self._unloading = asyncio.create_task(self._supervisor.unload())


def _submission(handle: int, request: GenerationRequest | EmbedRequest) -> Submit | Embed:
    return Embed(handle, request) if isinstance(request, EmbedRequest) else Submit(handle, request)
