"""The front's heart: what handlers of every dialect share. Built by `commands.serve`, kept in `app.state.runner`.

Holds the engine, the configuration in force, the model's facts, the template worker and the metrics; decides whether
the runner is ready; runs a generation with its measurements. One event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol

from paddock_runner.api.errors import ApiError, as_api_error
from paddock_runner.api.facts import ModelFacts
from paddock_runner.api.metrics import Metrics, Operation, Outcome, Phase
from paddock_runner.api.settings import ServeConfig
from paddock_runner.api.status import Status, shown_memory
from paddock_runner.core.embedding import EmbedDone, EmbedEvent, EmbedRequest
from paddock_runner.core.engine_facts import MemoryNumbers, StepStats, VocabFacts
from paddock_runner.core.generation import Delta, DrainingError, Event, Finished, GenerationRequest, Started
from paddock_runner.core.public_names import normal
from paddock_runner.templating.client import TemplateWorker

log = logging.getLogger(__name__)

FOREVER_SECONDS = 292 * 365 * 86_400
DRAINING = "the server is shutting down"


class Engine(Protocol):
    """What the front needs of `engine.client.EngineClient`."""

    queue_depth: int

    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def vocab(self) -> VocabFacts | None: ...
    @property
    def memory(self) -> MemoryNumbers | None: ...
    @property
    def cells(self) -> int: ...
    @property
    def restarts(self) -> int: ...
    @property
    def oom_kills(self) -> int: ...
    @property
    def open_requests(self) -> int: ...
    @property
    def stats(self) -> StepStats | None: ...

    async def start(self) -> VocabFacts: ...
    async def load(self) -> Any: ...
    async def unload(self) -> None: ...
    async def close(self) -> None: ...
    def keep_alive(self, seconds: float) -> None: ...
    def generate(self, request: GenerationRequest) -> AsyncIterator[Event]: ...
    def embed(self, request: EmbedRequest) -> AsyncIterator[EmbedEvent]: ...


class ConfigInForce(Protocol):
    """What the front needs of `configfile.ConfigFile`."""

    @property
    def value(self) -> ServeConfig: ...
    @property
    def sha256(self) -> str: ...


class Runner:
    """`now` is the monotonic clock in seconds; tests replace it. `warm` runs once for each load, when nobody asks for
    anything, and is cancelled by the next request; then it runs again later.
    """

    def __init__(
        self,
        engine: Engine,
        config: ConfigInForce,
        facts: ModelFacts,
        templates: TemplateWorker,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.facts = facts
        self.templates = templates
        self.metrics = metrics
        self.now = now
        self.draining = False
        self._config = config
        self._proven = False
        self._idle_since = now()
        self._keep_alive = config.value.keep_alive_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self.warm: Callable[[Runner], Awaitable[None]] | None = None
        self._cold = False
        self._warming: asyncio.Task[None] | None = None

    @property
    def config(self) -> ServeConfig:
        """The configuration in force."""
        return self._config.value

    @property
    def config_sha256(self) -> str:
        return self._config.sha256

    def apply_config(self, config: ServeConfig) -> None:
        """Take over the hot numbers of a new configuration."""
        self.engine.queue_depth = config.queue_depth
        self.set_keep_alive(None)

    def serves(self, name: str) -> bool:
        """Whether `name`, as a client wrote it, is this Model."""
        return normal(name) in {normal(known) for known in self.config.names}

    def set_keep_alive(self, seconds: float | None) -> None:
        """Keep the model that long after the last request; None means the configuration's own value."""
        self._keep_alive = self.config.keep_alive_seconds if seconds is None else seconds
        self.engine.keep_alive(self._keep_alive)

    def expires_in(self) -> float:
        """Seconds until an idle model is unloaded; about 292 years for "never", as Ollama shows it."""
        if self._keep_alive < 0:
            return FOREVER_SECONDS
        since = self.now() if self.engine.open_requests else self._idle_since
        return max(0.0, since + self._keep_alive - self.now())

    def unload_soon(self) -> None:
        """Unload once the running requests are finished; returns at once."""
        self._spawn(self.engine.unload())

    async def vocab(self) -> VocabFacts:
        """The vocabulary's facts, waited for at a cold start. Raises EngineFailedError, DrainingError."""
        return self.engine.vocab or await self.engine.start()

    async def load(self) -> None:
        """Have the weights loaded. Raises DrainingError, EngineFailedError."""
        if self.draining:
            raise DrainingError
        await self.engine.load()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _warm(self, warm: Callable[[Runner], Awaitable[None]]) -> None:
        await warm(self)
        self._cold = False

    def _warm_if_idle(self) -> None:
        """Not with a keep-alive of 0: then an idle model is about to be unloaded."""
        idle = self.engine.state == "ready" and not self.engine.open_requests and not self.draining
        if self.warm is not None and self._cold and idle and not self._busy_warming() and self._keep_alive != 0:
            self._warming = asyncio.ensure_future(self._warm(self.warm))

    def _busy_warming(self) -> bool:
        return self._warming is not None and not self._warming.done()

    async def _stop_warming(self) -> None:
        if self._warming is not None and not self._warming.done():
            self._warming.cancel()
            await asyncio.wait([self._warming])

    def on_state(self, state: str) -> None:
        """Told by the engine's observer: a self-test proves, a crash takes it back."""
        if state == "ready":
            self._proven = self._cold = True
            self._warm_if_idle()
        elif state == "crashed":
            self._proven = False

    def state(self) -> str:
        """The state that `/readyz` shows."""
        return "draining" if self.draining else self.engine.state

    def readiness(self) -> tuple[bool, str]:
        """(ready, why not). An engine that was unloaded for idleness is ready: the next request loads it."""
        if self.draining:
            return False, DRAINING
        if self._proven:
            return True, ""
        return False, self.engine.reason or f"the engine is {self.engine.state}"

    def status(self) -> Status:
        """What `/readyz` and the state lines tell."""
        ready, reason = self.readiness()
        engine = self.engine
        memory = shown_memory(engine.memory)
        return Status(
            ready,
            reason,
            self.state(),
            self.config_sha256,
            self.facts.digest,
            engine.restarts,
            engine.oom_kills,
            memory,
        )

    def note_end(self) -> None:
        """A request ended: the time of an idle model counts from here."""
        self._idle_since = self.now()
        self._warm_if_idle()

    async def generate(
        self, request: GenerationRequest, operation: Operation, arrived: float, keep_alive: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """The engine's events, measured. Raises GenerationError.

        `arrived` is `now()` at the request's arrival; `keep_alive` (seconds) counts from its end, None is the
        configured time.
        """
        measured = Measured(self.metrics, operation, arrived, self.now)
        try:
            if self.draining:
                raise DrainingError
            await self._stop_warming()
            async with aclosing(self.engine.generate(request)) as events:  # type: ignore[type-var]
                async for event in events:
                    if isinstance(event, Started):
                        # Not earlier: a time of 0 would unload the model before this request holds it.
                        self.set_keep_alive(keep_alive)
                    measured.see(event)
                    yield event
        except Exception as error:
            measured.failed(as_api_error(error))
            raise
        finally:
            self.note_end()
            measured.close()


class Measured:
    """The measurements of one generation; `close` tells the outcome, cancelled if nothing else was seen."""

    def __init__(self, metrics: Metrics, operation: Operation, arrived: float, now: Callable[[], float]) -> None:
        self._metrics = metrics
        self._operation: Operation = operation
        self._arrived = arrived
        self._now = now
        self._outcome: Outcome = "cancelled"
        self._phase: Phase = "queue"
        self._first = self._last = 0.0
        self._error_type = ""

    def see(self, event: Event) -> None:
        if isinstance(event, Started):
            self._phase = "prefill"
        elif isinstance(event, Delta):
            self._piece()
        else:
            self._finish(event)

    def _piece(self) -> None:
        moment = self._now()
        if self._phase == "decode":
            self._metrics.between_tokens.labels(self._metrics.model).observe(moment - self._last)
        else:
            self._phase, self._first = "decode", moment
        self._last = moment

    def _finish(self, event: Finished) -> None:
        metrics, labels = self._metrics, self._metrics.gen_ai(self._operation)
        self._outcome = "cancelled" if event.reason == "cancelled" else "ok"
        metrics.finished(self._operation, event)
        if self._first:
            metrics.first_token_seconds.labels(*labels).observe(self._first - self._arrived)
            if event.output_tokens > 1:
                per_token = (self._last - self._first) / (event.output_tokens - 1)
                metrics.per_token_seconds.labels(*labels).observe(per_token)

    def embedded(self, event: EmbedDone) -> None:
        """All texts of an embedding request are answered."""
        self._outcome = "ok"
        self._metrics.embedded(self._operation, event)

    def failed(self, error: ApiError) -> None:
        outcomes: dict[str, Outcome] = {"queue": "shed", "draining": "drained", "engine": "engine_error"}
        fallback: Outcome = "client_error" if error.status < 500 else "engine_error"
        self._outcome = outcomes.get(error.reason, fallback)
        self._error_type = error.reason

    def close(self) -> None:
        metrics = self._metrics
        if self._outcome == "cancelled":
            self._error_type = "cancelled"
            metrics.disconnects.labels(self._phase).inc()
        metrics.requests.labels(metrics.model, self._operation, self._outcome).inc()
        labels = (*metrics.gen_ai(self._operation), self._error_type)
        metrics.request_seconds.labels(*labels).observe(self._now() - self._arrived)
