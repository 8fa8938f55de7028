"""The engine's loop: schedule, run, postprocess, and between steps the socket. Runs on any `Backend`.

Called by `engine.startup`. Nothing in here waits but `link.wait` when there is nothing to run: the socket is
non-blocking, prompts are tokenised in a thread. A cancel, a hold or a new request is therefore seen between two
steps, within one step's bound of 200 ms.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from paddock_runner.core.costs import CostModel
from paddock_runner.core.crash import Row
from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.engine_output import Output
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.engine_request import check_request
from paddock_runner.core.engine_sampling import normal_sampling
from paddock_runner.core.generation import (
    Delta,
    EngineFailedError,
    Finished,
    FinishReason,
    GenerationError,
    GenerationRequest,
    Started,
    TokenLogprob,
)
from paddock_runner.core.prefix import PrefixTree
from paddock_runner.core.prefix_host import HostTier
from paddock_runner.core.scheduler import Scheduler
from paddock_runner.core.sequence import Chunk, Sampled, Sequence, Step
from paddock_runner.engine.backend import Backend, Loaded, NoCellsError, NonFiniteLogitsError
from paddock_runner.engine.cache_hands import CacheHands
from paddock_runner.engine.failures import to_wire
from paddock_runner.engine.grammar import GrammarError, Table
from paddock_runner.engine.link import FrameLink, LinkClosedError
from paddock_runner.engine.prompts import Prepared, PromptThread
from paddock_runner.engine.protocol import (
    Cancel,
    Hold,
    Load,
    Release,
    SequenceEvent,
    Shutdown,
    Submit,
    ToEngine,
    Tokens,
)
from paddock_runner.engine.runs import Run
from paddock_runner.engine.step_note import StepNote

# Cells that only keep prefixes slow every step a little, as attention passes them by; docs/engine.md has the figures.
HOT_CELLS = 4096

Clock = Callable[[], float]


class EngineLoop:
    """Serves `link` with a loaded `backend`, whose vocabulary `table` has for constraints.

    `first_ms` is the time of one token decoded alone (see `core.costs`). `note` is told of each step.
    """

    def __init__(
        self,
        backend: Backend,
        link: FrameLink,
        load: Load,
        loaded: Loaded,
        table: Table,
        *,
        first_ms: float,
        note: StepNote,
        clock: Clock = time.monotonic,
    ) -> None:
        self._backend = backend
        self._link = link
        self._note = note
        self._clock = clock
        self._context = load.record.context_length
        self._vocab_size = backend.vocab.size
        self._scheduler = Scheduler(
            slots=load.record.slots,
            cells=loaded.cells,
            batch=loaded.batch,
            queue_depth=load.queue_depth,
            costs=CostModel(first_ms),
            prefixes=_prefixes(load.record, loaded),
            hot=min(loaded.cells, HOT_CELLS),
        )
        self._hands = CacheHands(backend)
        self._prompts = PromptThread(backend, table, link.wake, note.prepare)
        self._arriving: dict[int, tuple[GenerationRequest, float]] = {}  # being tokenised
        self._runs: dict[int, Run] = {}
        self._events: list[SequenceEvent] = []
        self._idle_told = True
        self._stopping = False
        self._mask_seconds = 0.0

    def run(self) -> None:
        """Until Shutdown. Raises LinkClosedError when the front is gone, BackendError when the process must end."""
        while not self._stopping:
            self.turn()

    def close(self) -> None:
        """End the helper thread. The backend and the link are the caller's."""
        self._prompts.close()

    def turn(self) -> None:
        """Read the socket, then run one step, or wait if there is none."""
        for message in self._link.receive():
            self._on_message(message)
        self._admit_tokenised()
        step = None if self._link.backlogged else self._scheduler.schedule()
        if step is not None:
            self._hands.apply(step.operations)
            self._note_admitted(step)
        if step is not None and step.chunks:
            self._note.begin(map(_row, step.chunks))
            self._run_step(step)
            self._note.end()
        elif not self._stopping:
            self._rest()

    def _on_message(self, message: ToEngine) -> None:
        if isinstance(message, Submit):
            self._on_submit(message)
        elif isinstance(message, Cancel):
            self._on_cancel(message.handle)
        elif isinstance(message, Hold | Release):
            self._on_flow(message.handle, held=isinstance(message, Hold))
        elif isinstance(message, Shutdown):
            self._stopping = True
        else:
            raise LinkClosedError(f"the front sent {type(message).__name__} to a loaded engine")

    def _on_submit(self, message: Submit) -> None:
        try:
            check_request(message.request, self._vocab_size)
        except GenerationError as error:
            self._fail(message.handle, error)
            return
        self._arriving[message.handle] = message.request, self._clock()
        self._prompts.submit(message.handle, message.request)

    def _on_cancel(self, handle: int) -> None:
        self._arriving.pop(handle, None)
        if handle in self._runs:
            self._drop(self._runs[handle])

    def _on_flow(self, handle: int, *, held: bool) -> None:
        if handle in self._runs:
            self._runs[handle].sequence.held = held

    def _admit_tokenised(self) -> None:
        for handle, prepared in self._prompts.collect():
            arriving = self._arriving.pop(handle, None)
            if arriving is None:  # cancelled meanwhile
                continue
            try:
                if isinstance(prepared, GenerationError):
                    raise prepared
                self._add_run(handle, *arriving, prepared)
            except GenerationError as error:
                self._fail(handle, error)

    def _add_run(self, handle: int, request: GenerationRequest, arrived: float, prepared: Prepared) -> None:
        limit = min(self._context, request.context_limit or self._context)
        seed = int.from_bytes(os.urandom(4), "big")
        sampling = normal_sampling(request.sampling, vocab_size=self._vocab_size, context=limit, seed=seed)
        sequence = Sequence(handle, prepared.tokens, limit, request.max_tokens, request.tenant, request.priority)
        self._scheduler.add(sequence)
        sampler = self._backend.open_sampler(sampling, prepared.tokens)
        self._runs[handle] = Run(handle, request, sequence, sampler, Output(request.stop), arrived, prepared.guide)

    def _note_admitted(self, step: Step) -> None:
        for sequence in step.admitted:
            run = self._runs[sequence.key]
            if not run.admitted:  # else it was preempted and has told already
                run.admitted = self._clock()
                self._tell(run, run.started())

    def _run_step(self, step: Step) -> None:
        began = self._clock()
        try:
            self._backend.decode(step.chunks)
        except NoCellsError:
            self._make_room(step)
            return
        sampled, logprobs, broken = self._sample(step.chunks)
        milliseconds = (self._clock() - began) * 1000
        ended = dict(self._scheduler.postprocess(step, sampled, milliseconds))
        for item, logprob in zip(sampled, logprobs, strict=True):
            self._tell_token(self._runs[item.sequence.key], item, logprob, ended.get(item.sequence))
        for run, words, spoilt in broken:
            self._break(run, EngineFailedError(words), spoilt=spoilt)
        self._send(self._stats(step, milliseconds))

    def _sample(
        self, chunks: list[Chunk]
    ) -> tuple[list[Sampled], list[TokenLogprob | None], list[tuple[Run, str, bool]]]:
        sampled, logprobs, broken = [], [], []
        for row, chunk in enumerate(chunk for chunk in chunks if chunk.output):
            run = self._runs[chunk.sequence.key]
            try:
                token = self._draw(row, run)
            except NonFiniteLogitsError:
                broken.append((run, "the model's output for this request is not a number", True))
                continue
            except GrammarError as error:
                broken.append((run, f"the constraint of this request cannot be followed any further: {error}", False))
                continue
            top = run.request.logprobs
            logprobs.append(None if top is None else self._backend.logprob(row, token, top))
            sampled.append(Sampled(chunk.sequence, token, self._backend.is_end(token)))
        return sampled, logprobs, broken

    def _draw(self, row: int, run: Run) -> int:
        if run.guide is None:
            return self._backend.sample(row, run.sampler)
        began = self._clock()
        allowed = run.guide.allowed()
        self._mask_seconds += self._clock() - began
        token = self._backend.sample(row, run.sampler, allowed)
        if not self._backend.is_end(token):
            run.guide.accept(token)
        return token

    def _tell_token(self, run: Run, item: Sampled, logprob: TokenLogprob | None, reason: FinishReason | None) -> None:
        run.first_token = run.first_token or self._clock()
        if item.end:
            run.output.push_end()
        else:
            run.output.push(item.token, self._backend.piece(item.token), logprob)
        if run.output.stop is not None or (run.guide is not None and run.guide.done):
            reason = "stop"
        delta = run.output.take(last=reason is not None)
        if delta is not None:
            self._tell(run, delta)
        if reason is not None:
            self._tell(run, run.finished(reason, self._clock()))
            self._drop(run)

    def _make_room(self, step: Step) -> None:
        victim = self._scheduler.make_room(step)
        if victim is not None:
            self._break(self._runs[victim.key], EngineFailedError("the KV cache has no room for this request"))

    def _break(self, run: Run, error: GenerationError, *, spoilt: bool = True) -> None:
        self._drop(run, spoilt=spoilt)
        self._fail(run.handle, error)

    def _drop(self, run: Run, *, spoilt: bool = False) -> None:
        self._scheduler.remove(run.sequence, spoilt=spoilt)
        run.sampler.close()
        del self._runs[run.handle]

    def _tell(self, run: Run, event: Started | Delta | Finished) -> None:
        self._events.append(SequenceEvent(run.handle, event))

    def _fail(self, handle: int, error: GenerationError) -> None:
        self._events.append(SequenceEvent(handle, to_wire(error)))

    def _rest(self) -> None:
        if self._events or not self._idle_told:
            self._send(self._stats(None, 0.0))
            self._idle_told = True
        else:
            self._link.wait()

    def _send(self, stats: StepStats) -> None:
        self._idle_told = False
        self._link.send(Tokens(tuple(self._events), stats))
        self._mask_seconds = 0.0
        self._events.clear()

    def _stats(self, step: Step | None, milliseconds: float) -> StepStats:
        return StepStats(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting + len(self._arriving),
            prefill_tokens=step.costs.prefill_tokens if step else 0,
            decode_tokens=step.costs.decode_tokens if step else 0,
            milliseconds=milliseconds,
            used_cells=self._scheduler.cells.pinned,
            retained_cells=self._scheduler.cells.retained,
            shared_cells=self._scheduler.cells.shared,
            expected_seconds=self._scheduler.expected_seconds,
            saved_cells=self._scheduler.cells.host.cells,
            mask_milliseconds=self._mask_seconds * 1000,
            threads=self._backend.threads,
        )


def _row(chunk: Chunk) -> Row:
    sequence = chunk.sequence
    return Row(sequence.key, chunk.start, len(chunk.tokens), reading=sequence.generated == 0)


def _prefixes(record: EngineRecord, loaded: Loaded) -> PrefixTree:
    # Beside keys and values a saved cell has its position and its owner.
    host = HostTier(record.prefix_bytes, loaded.memory.kv // loaded.cells + 16)
    sequences = record.slots if loaded.abilities.recurrent else record.sequences
    return PrefixTree(sequences, loaded.cells, host, loaded.abilities.sharing)
