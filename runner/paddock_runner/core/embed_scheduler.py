"""Which texts, or pieces of texts, an embedding engine computes in its next step. Pure; called by `engine.embed_loop`.

Texts of all requests share steps. Tenants take turns, requests of a tenant take turns, a request's texts go in order;
so one text waits for a few others, never for a whole library. A text is cut only where the model allows it
(`splits`); otherwise it is computed at once, alone if it is long, and the bound of a step yields to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from paddock_runner.core.costs import BOUND_MS, CostModel, StepCosts
from paddock_runner.core.generation import QueueFullError

JOINT_TOKENS = 256
"""Texts are joined up to so many tokens: wider steps are no faster, and llama.cpp's buffers only grow."""
_UNIT = 16


@dataclass(slots=True, eq=False)
class Text:
    """One text of the request `handle`. `done` of its tokens are in the cache, under the sequence id `slot`."""

    handle: int
    index: int
    tokens: list[int]
    done: int = 0
    slot: int = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """`tokens` of `text` from position `start`; after the `last` one the text has its vector."""

    text: Text
    start: int
    tokens: list[int]
    last: bool


@dataclass(slots=True, eq=False)
class _Tenant:
    requests: deque[deque[Text]] = field(default_factory=deque)


class EmbedScheduler:
    """`sequences`: texts of one step at most; `batch`: tokens of one step; `cells`: tokens that may be in the cache.

    `splits`: texts may be cut into pieces. `alone`: never two texts in a step. `queue_depth` bounds the requests that
    wait with none of their texts begun; `waiting` counts texts.
    """

    def __init__(
        self,
        *,
        sequences: int,
        batch: int,
        cells: int,
        splits: bool,
        alone: bool,
        queue_depth: int,
        costs: CostModel,
    ) -> None:
        self._free = list(range(1 if alone else sequences))[::-1]
        self._batch = batch
        self._joint = min(batch, JOINT_TOKENS)
        self._cells = cells
        self._splits = splits
        self._queue_depth = queue_depth
        self._costs = costs
        self._tenants: dict[str, _Tenant] = {}
        self._running: list[Text] = []

    @property
    def running(self) -> int:
        """Texts that hold a sequence id."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Texts that wait for one."""
        return sum(len(texts) for tenant in self._tenants.values() for texts in tenant.requests)

    @property
    def used_cells(self) -> int:
        """Cells that running texts have or were promised; none where texts are never cut."""
        return sum(len(text.tokens) for text in self._running)

    def add(self, texts: list[Text], tenant: str) -> None:
        """Queue the texts of one request. Raises QueueFullError."""
        waiting = sum(len(other.requests) for other in self._tenants.values())
        if waiting >= self._queue_depth:
            raise QueueFullError(waiting, 1.0)
        self._tenants.setdefault(tenant, _Tenant()).requests.append(deque(texts))

    def remove(self, handle: int) -> list[int]:
        """Forget a request. Returns the sequence ids whose cells must be dropped."""
        for name, tenant in list(self._tenants.items()):
            tenant.requests = deque(texts for texts in tenant.requests if texts[0].handle != handle)
            if not tenant.requests:
                del self._tenants[name]
        dropped = [text for text in self._running if text.handle == handle]
        for text in dropped:
            self._release(text)
        return [text.slot for text in dropped]

    def schedule(self) -> list[Piece]:
        """The next step; empty if there is nothing to do."""
        pieces: list[Piece] = []
        for text in self._candidates():
            piece = self._fit(text, pieces)
            if piece is None:
                break
            if text.slot < 0:
                self._begin(text)
            pieces.append(piece)
        return pieces

    def finish(self, pieces: list[Piece], milliseconds: float) -> list[Text]:
        """Note that a step is done. Returns the texts that are complete; their sequence ids are free again."""
        self._costs.observe(_costs_of(pieces), milliseconds)
        for piece in pieces:
            piece.text.done += len(piece.tokens)
        ended = [piece.text for piece in pieces if piece.last]
        for text in ended:
            self._release(text)
        return ended

    def _candidates(self) -> Iterator[Text]:
        """Begun texts first, then the heads of the queues in turn, as long as there are ids and cells."""
        yield from list(self._running)
        while self._free and (text := self._head()) is not None:
            if self._splits and self.used_cells + len(text.tokens) > self._cells:
                return
            yield text

    def _head(self) -> Text | None:
        tenant = next(iter(self._tenants.values()), None)
        return tenant.requests[0][0] if tenant else None

    def _begin(self, text: Text) -> None:
        """Take the head of the queues; its request and its tenant go to the end."""
        name, tenant = next(iter(self._tenants.items()))
        texts = tenant.requests.popleft()
        texts.popleft()
        del self._tenants[name]
        if texts:
            tenant.requests.append(texts)
        if tenant.requests:
            self._tenants[name] = tenant
        text.slot = self._free.pop()
        self._running.append(text)

    def _release(self, text: Text) -> None:
        self._running.remove(text)
        self._free.append(text.slot)

    def _fit(self, text: Text, pieces: list[Piece]) -> Piece | None:
        """As much of `text` as still has room beside `pieces`; None if it must wait for the next step."""
        used = sum(len(piece.tokens) for piece in pieces)
        deepest = max((piece.start + len(piece.tokens) for piece in pieces), default=0)
        missing = len(text.tokens) - text.done
        count = missing if self._may(used + missing, max(deepest, len(text.tokens))) else 0
        if not count and self._splits:
            count = self._cut(text, used, deepest, missing)
        if not count:
            if pieces:
                return None
            # Nothing smaller is possible, and somebody has to be served.
            count = min(_UNIT, missing, self._batch) if self._splits else missing
        end = text.done + count
        return Piece(text, text.done, text.tokens[text.done : end], end == len(text.tokens))

    def _cut(self, text: Text, used: int, deepest: int, missing: int) -> int:
        for count in range(min(missing, self._joint - used) // _UNIT * _UNIT, 0, -_UNIT):
            if self._may(used + count, max(deepest, text.done + count)):
                return count
        return 0

    def _may(self, tokens: int, depth: int) -> bool:
        if tokens > self._joint:
            return False
        return tokens <= self._costs.always or self._costs.prefill_ms(tokens, depth) <= BOUND_MS


def _costs_of(pieces: list[Piece]) -> StepCosts:
    tokens = sum(len(piece.tokens) for piece in pieces)
    return StepCosts(0, 0, tokens, max(piece.start + len(piece.tokens) for piece in pieces))
