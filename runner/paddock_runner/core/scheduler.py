"""Which tokens go into the next step: plain, pure Python, no llama.cpp. Called by `engine.loop`.

Three lines make the engine: `step = scheduler.schedule()`, run it, `scheduler.postprocess(step, results)`. A
sequence is in one of three places: waiting (first come, first served), or in a slot and there in prefill (its tokens
are not all in the cache) or decoding (all but its newest token are). A slot's number is its KV cache sequence id.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from paddock_runner.core.costs import CostModel, StepCosts
from paddock_runner.core.generation import ContextExceededError, InvalidRequestError, QueueFullError

# What the scheduler plans for; the bound itself is 200 ms, the rest is room for a wrong estimate.
STEP_TARGET_MS = 150.0
CHUNK_UNIT = 16
MAX_PREEMPTIONS = 8

EndReason = Literal["stop", "length"]


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence. `tokens` are the prompt and everything generated; the first `cached` of them are in the KV cache.

    `limit` is the most tokens it may have in all, `max_tokens` the most it may generate (< 0: no bound but `limit`).
    """

    key: int
    tokens: list[int]
    limit: int
    max_tokens: int = -1
    prompt_tokens: int = field(init=False)
    slot: int = -1
    cached: int = 0
    held: bool = False
    preemptions: int = 0
    last_turn: int = -1

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def missing(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.cached

    @property
    def decoding(self) -> bool:
        """Only the newest token is missing, and it was generated or is the last of the prompt."""
        return self.missing == 1 and self.cached > 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """`tokens` of `sequence` from position `start`. `output` asks for logits after the last one."""

    sequence: Sequence
    start: int
    tokens: list[int]
    output: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One batch. `admitted` are the sequences that got a slot for it."""

    chunks: list[Chunk]
    admitted: list[Sequence]
    costs: StepCosts


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sequence's new token; `end` says that it is one of the model's end tokens."""

    sequence: Sequence
    token: int
    end: bool


class Scheduler:
    """`slots` sequences at once, `cells` KV cells for all, `batch` tokens in one step, `queue_depth` waiting."""

    def __init__(self, *, slots: int, cells: int, batch: int, queue_depth: int, costs: CostModel) -> None:
        self._free_slots = deque(range(slots))
        self._cells = cells
        self._batch = batch
        self._queue_depth = queue_depth
        self._costs = costs
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []  # oldest first
        self._prefill_owed = False
        self._turns = itertools.count()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._active)

    @property
    def used_cells(self) -> int:
        return sum(sequence.cached for sequence in self._active)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises InvalidRequestError, ContextExceededError, QueueFullError, changing nothing."""
        if not sequence.tokens:
            raise InvalidRequestError("prompt", "has no tokens; give some text")
        if sequence.prompt_tokens >= sequence.limit:
            raise ContextExceededError(sequence.prompt_tokens, sequence.limit)
        if len(self._waiting) >= self._queue_depth:
            raise QueueFullError(len(self._waiting), 1.0)
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> int:
        """Take a sequence out, wherever it is. Returns the slot whose cells must be dropped, -1 for none."""
        if sequence.slot < 0:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
            return -1
        return self._leave_slot(sequence)

    def schedule(self) -> Step:
        """The next batch; without chunks when nothing can run now."""
        admitted = self._admit()
        if self._prefill_owed:
            prefill = self._prefill_chunks(STEP_TARGET_MS, self._batch)
            left = STEP_TARGET_MS - self._prefill_ms(prefill)
            decode = self._decode_chunks(left, self._batch - _count(prefill), must=not prefill)
        else:
            decode = self._decode_chunks(STEP_TARGET_MS, self._batch)
            left = STEP_TARGET_MS - self._decode_ms(decode)
            prefill = self._prefill_chunks(left, self._batch - len(decode), must=not decode)
        self._prefill_owed = not prefill and any(map(_needs_prefill, self._active))
        costs = StepCosts(len(decode), _depth(decode), _count(prefill), _depth(prefill))
        return Step(decode + prefill, admitted, costs)

    def postprocess(
        self, step: Step, sampled: Iterable[Sampled], milliseconds: float
    ) -> list[tuple[Sequence, EndReason]]:
        """Record a step that was run. Returns the sequences that are complete; the caller removes them."""
        self._costs.observe(step.costs, milliseconds)
        for chunk in step.chunks:
            chunk.sequence.cached = chunk.start + len(chunk.tokens)
            chunk.sequence.last_turn = next(self._turns)
        return list(self._ended(sampled))

    def newest(self, step: Step) -> Sequence:
        """The sequence of `step` that was admitted last: the one to give way when the cells do not suffice."""
        return max((chunk.sequence for chunk in step.chunks), key=self._active.index)

    def preempt(self, sequence: Sequence) -> int:
        """Let a sequence wait again, first in line, with all its tokens. Returns the slot whose cells must be dropped.

        -1 when it is alone or was preempted too often: then nothing has changed and it can only fail.
        """
        if len(self._active) == 1 or sequence.preemptions >= MAX_PREEMPTIONS:
            return -1
        sequence.preemptions += 1
        self._waiting.appendleft(sequence)
        return self._leave_slot(sequence)

    def _ended(self, sampled: Iterable[Sampled]) -> Iterator[tuple[Sequence, EndReason]]:
        for item in sampled:
            sequence = item.sequence
            sequence.tokens.append(item.token)
            if item.end:
                yield sequence, "stop"
            elif sequence.generated == sequence.max_tokens or len(sequence.tokens) >= sequence.limit:
                yield sequence, "length"

    def _leave_slot(self, sequence: Sequence) -> int:
        slot, sequence.slot, sequence.cached = sequence.slot, -1, 0
        self._active.remove(sequence)
        self._free_slots.append(slot)
        return slot

    def _admit(self) -> list[Sequence]:
        admitted = []
        needed = sum(len(sequence.tokens) for sequence in self._active)
        while self._waiting and self._free_slots:
            needed += len(self._waiting[0].tokens) + 1
            if needed > self._cells and self._active:
                break
            sequence = self._waiting.popleft()
            sequence.slot = self._free_slots.popleft()
            self._active.append(sequence)
            admitted.append(sequence)
        return admitted

    def _decode_chunks(self, budget_ms: float, room: int, *, must: bool = True) -> list[Chunk]:
        chunks: list[Chunk] = []
        deepest = 0
        ready = [sequence for sequence in self._active if sequence.decoding and not sequence.held]
        # Who was left out of the last step for lack of time comes first now.
        for sequence in sorted(ready, key=_last_turn)[: max(room, 0)]:
            deepest = max(deepest, sequence.cached)
            free = must and len(chunks) < self._costs.always
            if not free and self._costs.decode_ms(len(chunks) + 1, deepest) > budget_ms:
                break
            chunks.append(Chunk(sequence, sequence.cached, sequence.tokens[-1:], True))
        return chunks

    def _prefill_chunks(self, budget_ms: float, room: int, *, must: bool = True) -> list[Chunk]:
        chunks: list[Chunk] = []
        least = min(CHUNK_UNIT, self._costs.always) if must else 0
        for sequence in self._active:
            if not _needs_prefill(sequence):
                continue
            size = self._chunk_size(sequence, chunks, budget_ms, room - _count(chunks), least)
            if size == 0:
                break
            chunks.append(_prefill_chunk(sequence, size))
            least = 0
        return chunks

    def _chunk_size(self, sequence: Sequence, chunks: list[Chunk], budget_ms: float, room: int, least: int) -> int:
        """The largest chunk that fits beside `chunks`; `least` when none does."""
        taken, depth = _count(chunks), max(_depth(chunks), sequence.cached)
        for size in _chunk_sizes(sequence.missing, room, least):
            if self._costs.prefill_ms(taken + size, depth) <= budget_ms:
                return size
        return min(least, sequence.missing, room)

    def _decode_ms(self, chunks: list[Chunk]) -> float:
        return self._costs.decode_ms(len(chunks), _depth(chunks))

    def _prefill_ms(self, chunks: list[Chunk]) -> float:
        return self._costs.prefill_ms(_count(chunks), _depth(chunks))


def _last_turn(sequence: Sequence) -> int:
    return sequence.last_turn


def _needs_prefill(sequence: Sequence) -> bool:
    return not sequence.held and not sequence.decoding


def _chunk_sizes(missing: int, room: int, least: int) -> Iterator[int]:
    """What a chunk may have, largest first: all that are missing, multiples of CHUNK_UNIT.

    Below that, more than `least`, if something must be done and not even one unit fits: a slow model.
    """
    if missing <= room:
        yield missing
    yield from range(min(missing - 1, room) // CHUNK_UNIT * CHUNK_UNIT, 0, -CHUNK_UNIT)
    if least:
        yield from range(min(missing, room, CHUNK_UNIT) - 1, least, -1)


def _prefill_chunk(sequence: Sequence, size: int) -> Chunk:
    end = sequence.cached + size
    return Chunk(sequence, sequence.cached, sequence.tokens[sequence.cached : end], end == len(sequence.tokens))


def _count(chunks: list[Chunk]) -> int:
    return sum(len(chunk.tokens) for chunk in chunks)


def _depth(chunks: list[Chunk]) -> int:
    return max((chunk.start for chunk in chunks), default=0)
