"""Which tokens go into the next step: plain, pure Python, no llama.cpp. Called by `engine.loop`.

Three lines make the engine: `step = scheduler.schedule()`, run it, `scheduler.postprocess(step, results)`. A
sequence is in one of three places: waiting (`core.scheduler_queue` says who is next), or in a slot and there in
prefill (its tokens are not all in the cache) or decoding (all but its newest token are). What it leaves in the cache
stays as a prefix for later ones (`core.prefix`); sequences that run always come before those.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Literal

from paddock_runner.core.costs import CostModel
from paddock_runner.core.generation import ContextExceededError, InvalidRequestError, QueueFullError
from paddock_runner.core.prefix import PrefixTree
from paddock_runner.core.prefix_nodes import common
from paddock_runner.core.scheduler_packing import CHUNK_UNIT, Packer
from paddock_runner.core.scheduler_queue import OUTPUT_WEIGHT, FairQueue
from paddock_runner.core.sequence import Sampled, Sequence, Step

MAX_PREEMPTIONS = 8
# A sequence waits for another one's prompt to be read if that saves it so many tokens.
WORTH_WAITING = CHUNK_UNIT

EndReason = Literal["stop", "length"]


class Scheduler:
    """`slots` sequences at once, `cells` KV cells for all, at most `hot` of them only for keeping prefixes; `batch`
    tokens in one step, `queue_depth` sequences waiting.
    """

    def __init__(
        self,
        *,
        slots: int,
        cells: int,
        batch: int,
        queue_depth: int,
        costs: CostModel,
        prefixes: PrefixTree,
        hot: int,
    ) -> None:
        self._slots = slots
        self._cells = cells
        self._hot = hot
        self._queue_depth = queue_depth
        self._prefixes = prefixes
        self._packer = Packer(batch, costs)
        self._costs = costs
        self._queue = FairQueue()
        self._active: list[Sequence] = []  # oldest first
        self._turns = itertools.count()

    @property
    def cells(self) -> PrefixTree:
        """Who owns which cells; to be read only."""
        return self._prefixes

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def expected_seconds(self) -> float:
        """How long a sequence that comes now would wait for a slot."""
        return self._queue.expected_seconds()

    @property
    def running(self) -> int:
        return len(self._active)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises InvalidRequestError, ContextExceededError, QueueFullError, changing nothing."""
        if not sequence.tokens:
            raise InvalidRequestError("prompt", "has no tokens; give some text")
        if sequence.prompt_tokens >= sequence.limit:
            raise ContextExceededError(sequence.prompt_tokens, sequence.limit)
        if len(self._queue) >= self._queue_depth:
            raise QueueFullError(len(self._queue), max(1.0, self.expected_seconds))
        self._queue.add(sequence)

    def remove(self, sequence: Sequence, *, spoilt: bool = False) -> None:
        """Take a sequence out, wherever it is. `spoilt`: what it and the prefixes left in the cache is not trusted."""
        if sequence.slot >= 0:
            self._leave_slot(sequence, keep=not spoilt)
        self._queue.leave(sequence)
        if spoilt:
            self._prefixes.evict(self._cells, save=False)

    def schedule(self) -> Step:
        """The next batch; without chunks when nothing can run now."""
        admitted = list(self._admit())
        chunks, costs = self._packer.pack(self._active)
        needed = sum(len(chunk.tokens) for chunk in chunks)
        kept = self._prefixes.retained
        self._prefixes.evict(max(self._prefixes.used + needed - self._cells, kept - self._hot))
        return Step(self._prefixes.take_operations(), chunks, admitted, costs)

    def postprocess(
        self, step: Step, sampled: Iterable[Sampled], milliseconds: float
    ) -> list[tuple[Sequence, EndReason]]:
        """Record a step that was run. Returns the sequences that are complete; the caller removes them."""
        self._costs.observe(step.costs, milliseconds)
        self._queue.pass_time(milliseconds)
        for chunk in step.chunks:
            self._prefixes.grow(chunk.sequence.slot, chunk.tokens)
            chunk.sequence.cached = chunk.start + len(chunk.tokens)
            chunk.sequence.last_turn = next(self._turns)
        return list(self._ended(sampled))

    def make_room(self, step: Step) -> Sequence | None:
        """The backend found no cells for `step`: kept prefixes give way, then the newest sequence waits again.

        Returns a sequence that can only fail: it is alone, or has given way too often. Then nothing has changed.
        """
        if self._prefixes.evict(sum(len(chunk.tokens) for chunk in step.chunks)):
            return None
        newest = max((chunk.sequence for chunk in step.chunks), key=self._active.index)
        if len(self._active) == 1 or newest.preemptions >= MAX_PREEMPTIONS:
            return newest
        newest.preemptions += 1
        self._leave_slot(newest, keep=True)
        self._queue.put_back(newest)
        return None

    def _ended(self, sampled: Iterable[Sampled]) -> Iterator[tuple[Sequence, EndReason]]:
        for item in sampled:
            sequence = item.sequence
            sequence.tokens.append(item.token)
            self._queue.serve(sequence, OUTPUT_WEIGHT)
            if item.end:
                yield sequence, "stop"
            elif sequence.generated == sequence.max_tokens or len(sequence.tokens) >= sequence.limit:
                yield sequence, "length"

    def _leave_slot(self, sequence: Sequence, *, keep: bool) -> None:
        (self._prefixes.keep if keep else self._prefixes.drop)(sequence.slot)
        self._active.remove(sequence)
        sequence.slot, sequence.cached = -1, 0

    def _admit(self) -> Iterator[Sequence]:
        passed: list[Sequence] = []
        # One that waits for a prefix has a place already: nobody overtakes it for long.
        while len(self._active) + len(passed) < self._slots and (sequence := self._queue.next(passed)) is not None:
            pinned, cached = self._found(sequence)
            if any(self._reads_for(other, sequence, cached) for other in self._active):
                passed.append(sequence)
                continue
            if self._active and not self._fits(len(sequence.tokens) - pinned):
                return
            self._queue.take(sequence)
            sequence.slot, sequence.cached = self._prefixes.open(sequence.tokens, sequence.tenant)
            self._queue.serve(sequence, sequence.missing)
            self._active.append(sequence)
            yield sequence

    def _found(self, sequence: Sequence) -> tuple[int, int]:
        found = self._prefixes.match(sequence.tokens, sequence.tenant)
        return found.pinned, found.length

    def _fits(self, more: int) -> bool:
        """Cells for all tokens that are known, with one more for the first that is generated."""
        return self._prefixes.pinned + sum(one.missing for one in self._active) + more + 1 <= self._cells

    def _reads_for(self, other: Sequence, sequence: Sequence, cached: int) -> bool:
        """`other` is reading a prompt that begins as that of `sequence`; better to read that part once."""
        if self._prefixes.sharing != "any" or not other.prefilling or other.tenant != sequence.tenant:
            return False
        same = common(other.tokens, sequence.tokens[:-1])
        return same > other.cached and same - cached >= WORTH_WAITING
