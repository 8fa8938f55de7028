"""Fill one step: decoding sequences first, parts of prompts from what is left of its time. Called by `core.scheduler`.

What fits is what the learned costs say; see `core.costs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many

from paddock_runner.core.costs import CostModel, StepCosts
from paddock_runner.core.sequence import Chunk, Sequence

# What the scheduler plans for; the bound itself is 200 ms, the rest is room for a wrong estimate.
STEP_TARGET_MS = 150.0
CHUNK_UNIT = 16
# How many times longer a step may get because it reads a prompt beside what it decodes: those readers wait for it.
DECODE_STRETCH = 4.0


class Packer:
    """`batch` is the most tokens of one step."""

    def __init__(self, batch: int, costs: CostModel) -> None:
        self._batch = batch
        self._costs = costs
        self._prefill_owed = False

    def pack(self, active: Many[Sequence]) -> tuple[list[Chunk], StepCosts]:
        """The chunks of the next step and what it consists of. `active` sequences, oldest first."""
        if self._prefill_owed:
            prefill = self._prefill_chunks(active, self._prefill_budget(active), self._batch)
            left = STEP_TARGET_MS - self._prefill_ms(prefill)
            decode = self._decode_chunks(active, left, self._batch - _count(prefill), must=not prefill)
        else:
            decode = self._decode_chunks(active, STEP_TARGET_MS, self._batch)
            left = min(STEP_TARGET_MS - self._decode_ms(decode), self._prefill_budget(active))
            prefill = self._prefill_chunks(active, left, self._batch - len(decode), must=not decode)
        self._prefill_owed = not prefill and any(sequence.prefilling for sequence in active)
        costs = StepCosts(len(decode), _depth(decode), _count(prefill), _depth(prefill))
        return decode + prefill, costs

    def _prefill_budget(self, active: Many[Sequence]) -> float:
        """Milliseconds for reading prompts in a step; few if others decode, all if nobody does."""
        depths = [sequence.cached for sequence in active if sequence.decoding and not sequence.held]
        if not depths:
            return STEP_TARGET_MS
        alone = self._costs.decode_ms(min(len(depths), self._batch), max(depths))
        return min(STEP_TARGET_MS, (DECODE_STRETCH - 1) * alone)

    def _decode_chunks(self, active: Many[Sequence], budget_ms: float, room: int, *, must: bool = True) -> list[Chunk]:
        chunks: list[Chunk] = []
        deepest = 0
        ready = [sequence for sequence in active if sequence.decoding and not sequence.held]
        # Who was left out of the last step for lack of time comes first now.
        for sequence in sorted(ready, key=_last_turn)[: max(room, 0)]:
            deepest = max(deepest, sequence.cached)
            free = must and len(chunks) < self._costs.always
            if not free and self._costs.decode_ms(len(chunks) + 1, deepest) > budget_ms:
                break
            chunks.append(Chunk(sequence, sequence.cached, sequence.tokens[-1:], True))
        return chunks

    def _prefill_chunks(self, active: Many[Sequence], budget_ms: float, room: int, *, must: bool = True) -> list[Chunk]:
        chunks: list[Chunk] = []
        least = min(CHUNK_UNIT, self._costs.always) if must else 0
        for sequence in active:
            if not sequence.prefilling:
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
