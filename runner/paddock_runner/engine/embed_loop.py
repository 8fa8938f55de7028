"""The loop of an embedding or reranking engine: schedule, run, tell. Runs on any `EmbedBackend`.

The counterpart of `engine.loop`, called by `engine.startup` for records of mode embed and rerank. Texts are tokenised
in a thread; a cancel or a new request is seen between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from paddock_runner.core.costs import CostModel
from paddock_runner.core.crash import Row
from paddock_runner.core.embed_scheduler import EmbedScheduler, Piece, Text
from paddock_runner.core.embedding import Embedded, EmbedDone, EmbedRequest, check_embedding
from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.generation import GenerationError, InvalidRequestError
from paddock_runner.engine.embed_backend import EmbedBackend, EmbedLoaded, Vector
from paddock_runner.engine.embed_texts import encode_texts
from paddock_runner.engine.embed_vectors import finished_vector
from paddock_runner.engine.failures import to_wire
from paddock_runner.engine.job_thread import JobThread
from paddock_runner.engine.link import FrameLink, LinkClosedError
from paddock_runner.engine.protocol import (
    Cancel,
    Embed,
    Failed,
    Hold,
    Load,
    Release,
    SequenceEvent,
    Shutdown,
    Submit,
    ToEngine,
    Tokens,
)
from paddock_runner.engine.step_note import StepNote

Clock = Callable[[], float]


@dataclass(slots=True)
class _Run:
    """One request. `left` texts are not answered; times are of the loop's clock, 0 means "not yet"."""

    request: EmbedRequest
    arrived: float
    left: int
    tokens: int = 0
    begun: float = 0.0


class EmbedLoop:
    """Serves `link` with a loaded `backend`. `first_ms` is what one token costs in the self-test (see `core.costs`)."""

    def __init__(
        self,
        backend: EmbedBackend,
        link: FrameLink,
        load: Load,
        loaded: EmbedLoaded,
        *,
        first_ms: float,
        note: StepNote,
        clock: Clock = time.monotonic,
    ) -> None:
        self._backend = backend
        self._link = link
        self._note = note
        self._loaded = loaded
        self._clock = clock
        self._vocab_size = backend.vocab.size
        self._scheduler = EmbedScheduler(
            sequences=load.record.sequences,
            batch=loaded.batch,
            cells=loaded.cells,
            splits=loaded.splits,
            alone=loaded.alone,
            queue_depth=load.queue_depth,
            costs=CostModel(first_ms),
        )
        work = partial(encode_texts, backend, loaded.limit)
        self._texts: JobThread[EmbedRequest, list[list[int]]] = JobThread(
            work, link.wake, name="texts", what="the input could not be tokenised", mark=note.prepare
        )
        self._runs: dict[int, _Run] = {}
        self._events: list[SequenceEvent] = []
        self._idle_told = True
        self._stopping = False

    def run(self) -> None:
        """Until Shutdown. Raises LinkClosedError when the front is gone, BackendError when the process must end."""
        while not self._stopping:
            self.turn()

    def close(self) -> None:
        """End the helper thread. The backend and the link are the caller's."""
        self._texts.close()

    def turn(self) -> None:
        """Read the socket, then run one step, or wait if there is none."""
        for message in self._link.receive():
            self._on_message(message)
        self._queue_tokenised()
        pieces = [] if self._link.backlogged else self._scheduler.schedule()
        if pieces:
            self._note.begin(Row(piece.text.handle, piece.start, len(piece.tokens), reading=True) for piece in pieces)
            self._run_step(pieces)
            self._note.end()
        elif not self._stopping:
            self._rest()

    def _on_message(self, message: ToEngine) -> None:
        if isinstance(message, Embed):
            self._on_embed(message)
        elif isinstance(message, Cancel):
            self._drop(message.handle)
        elif isinstance(message, Submit):
            self._fail(message.handle, InvalidRequestError("model", "does not generate text"))
        elif isinstance(message, Shutdown):
            self._stopping = True
        elif not isinstance(message, Hold | Release):  # a request's answer is bounded: there is nothing to hold
            raise LinkClosedError(f"the front sent {type(message).__name__} to a loaded engine")

    def _on_embed(self, message: Embed) -> None:
        try:
            check_embedding(message.request, self._vocab_size)
            if (message.request.query is not None) != self._loaded.score:
                raise InvalidRequestError(
                    "model", "this model gives " + ("scores" if self._loaded.score else "vectors")
                )
        except GenerationError as error:
            self._fail(message.handle, error)
            return
        self._runs[message.handle] = _Run(message.request, self._clock(), len(message.request.texts))
        self._texts.submit(message.handle, message.request)

    def _queue_tokenised(self) -> None:
        for handle, found in self._texts.collect():
            run = self._runs.get(handle)
            if run is None:  # cancelled meanwhile
                continue
            try:
                if isinstance(found, GenerationError):
                    raise found
                texts = [Text(handle, index, tokens) for index, tokens in enumerate(found)]
                self._scheduler.add(texts, run.request.tenant)
            except GenerationError as error:
                self._break(handle, error)

    def _run_step(self, pieces: list[Piece]) -> None:
        began = self._clock()
        for piece in pieces:
            run = self._runs[piece.text.handle]
            run.begun = run.begun or began
        vectors = self._backend.run(pieces)
        milliseconds = (self._clock() - began) * 1000
        for text, vector in zip(self._scheduler.finish(pieces, milliseconds), vectors, strict=True):
            self._answer(text, vector)
        self._send(self._stats(sum(len(piece.tokens) for piece in pieces), milliseconds))

    def _answer(self, text: Text, vector: Vector) -> None:
        run = self._runs.get(text.handle)
        if run is None:  # another text of the request failed in this step
            return
        try:
            told = finished_vector(vector, run.request.dimensions, score=self._loaded.score)
        except InvalidRequestError as error:
            self._break(text.handle, error)
            return
        run.left -= 1
        run.tokens += len(text.tokens)
        self._tell(text.handle, Embedded(text.index, len(text.tokens), told))
        if not run.left:
            now = self._clock()
            self._tell(text.handle, EmbedDone(run.tokens, run.begun - run.arrived, now - run.begun))
            del self._runs[text.handle]

    def _break(self, handle: int, error: GenerationError) -> None:
        self._drop(handle)
        self._fail(handle, error)

    def _drop(self, handle: int) -> None:
        self._runs.pop(handle, None)
        for slot in self._scheduler.remove(handle):
            self._backend.drop(slot)

    def _fail(self, handle: int, error: GenerationError) -> None:
        self._tell(handle, to_wire(error))

    def _tell(self, handle: int, event: Embedded | EmbedDone | Failed) -> None:
        self._events.append(SequenceEvent(handle, event))

    def _rest(self) -> None:
        if self._events or not self._idle_told:
            self._send(self._stats(0, 0.0))
            self._idle_told = True
        else:
            self._link.wait()

    def _send(self, stats: StepStats) -> None:
        self._idle_told = False
        self._link.send(Tokens(tuple(self._events), stats))
        self._events.clear()

    def _stats(self, tokens: int, milliseconds: float) -> StepStats:
        return StepStats(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            prefill_tokens=tokens,
            decode_tokens=0,
            milliseconds=milliseconds,
            used_cells=self._scheduler.used_cells,
            retained_cells=0,
            shared_cells=0,
            threads=self._backend.threads,
        )
