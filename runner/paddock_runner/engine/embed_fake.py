"""An embedding backend without a model: a vector is a hash of exactly the tokens and positions that its text has.

Called by tests. A piece at a wrong position, in a wrong slot, twice or not at all changes the vector, so the loop's
bookkeeping is proved by strict equality. Tokens 0…255 are bytes, 256 and 257 stand around every text.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from paddock_runner.core.embed_scheduler import Piece
from paddock_runner.core.engine_facts import MemoryNumbers, VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.embed_backend import EmbedLoaded, PairForm, Vector

FIRST, LAST = 256, 257
SIZE = 258
WIDTH = 16


@dataclass(slots=True)
class FakeEmbedder:
    """`steps` lists the token counts of each step, `cells` the tokens that each slot holds.

    `not_finite` numbers the steps, from 0, whose first vector is not a number.
    """

    splits: bool = False
    alone: bool = False
    template: str | None = None
    not_finite: set[int] = field(default_factory=set)
    token_seconds: float = 0.0
    steps: list[list[int]] = field(default_factory=list)
    cells: dict[int, list[int]] = field(default_factory=dict)
    _record: EngineRecord | None = None

    @property
    def vocab(self) -> VocabFacts:
        return VocabFacts(SIZE, FIRST, LAST, "<s>", "</s>", True, None, 4096, "fake")

    @property
    def threads(self) -> int:
        return 1

    @property
    def around(self) -> tuple[list[int], list[int]]:
        return [FIRST], [LAST]

    @property
    def pair(self) -> PairForm:
        return PairForm(self.template, (FIRST,), (LAST, LAST), (LAST,))

    def load(self, record: EngineRecord, progress: Callable[[float], None]) -> EmbedLoaded:
        self._record = record
        progress(1.0)
        limit = record.context_length if self.splits else min(record.context_length, record.batch)
        cells = record.cells if self.splits else 0
        memory = MemoryNumbers(0, 0, 0, 0, 0)
        return EmbedLoaded(
            memory, 1, True, cells, record.batch, limit, self.splits, self.alone, score=record.mode == "rerank"
        )

    def tokenize(self, text: str, special: bool) -> list[int]:
        if not special:
            return list(text.encode())
        marks = {"<s>": FIRST, "</s>": LAST}
        parts = text.replace("</s>", "\0</s>\0").replace("<s>", "\0<s>\0").split("\0")
        return [token for part in parts for token in ([marks[part]] if part in marks else part.encode())]

    def is_control(self, token: int) -> bool:
        return token >= FIRST

    def run(self, pieces: Sequence[Piece]) -> list[Vector]:
        self._check(pieces)
        self.steps.append([len(piece.tokens) for piece in pieces])
        time.sleep(self.token_seconds * sum(self.steps[-1]))
        for piece in pieces:
            self.cells.setdefault(piece.text.slot, []).extend(piece.tokens)
        vectors = [_hashed(self.cells.pop(piece.text.slot)) for piece in pieces if piece.last]
        if len(self.steps) - 1 in self.not_finite and vectors:
            vectors[0][3] = np.nan
        return vectors

    def drop(self, slot: int) -> None:
        self.cells.pop(slot, None)

    def close(self) -> None:
        self.cells.clear()

    def _check(self, pieces: Sequence[Piece]) -> None:
        assert self._record is not None  # noqa: S101  (load comes first)
        slots = [piece.text.slot for piece in pieces]
        most = 1 if self.alone else self._record.sequences
        if len(set(slots)) != len(slots) or not all(0 <= slot < most for slot in slots):
            raise BackendError("a slot twice or outside its range")
        if sum(len(piece.tokens) for piece in pieces) > self._record.batch:
            raise BackendError("more tokens than the batch holds")
        for piece in pieces:
            if piece.start != len(self.cells.get(piece.text.slot, [])) or not (self.splits or piece.last):
                raise BackendError("a piece that does not continue its text")


def _hashed(tokens: list[int]) -> Vector:
    digest = hashlib.blake2b(np.asarray(tokens, dtype=np.int64).tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(WIDTH).astype(np.float32)
