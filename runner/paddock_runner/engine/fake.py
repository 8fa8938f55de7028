"""A backend without a model: the next token is a hash of exactly the tokens and positions its sequence sees.

Called by tests. A token at the wrong position, in the wrong slot, twice or not at all changes everything after it, so
the loop's bookkeeping is proved by strict equality, which real floating point does not allow. Tokens 0…255 are bytes,
256 begins and 257 ends a text. Faults can be set off at a given decode.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from paddock_runner.core.engine_facts import MemoryNumbers, VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import Sampling, TokenLogprob
from paddock_runner.core.sequence import Chunk
from paddock_runner.engine.backend import Abilities, BackendError, Loaded, NoCellsError, Sampler
from paddock_runner.engine.embed_fake import FakeEmbedder
from paddock_runner.engine.grammar import Allowed
from paddock_runner.engine.logits import Row, best_token, masked, token_logprob

BOS, END = 256, 257
SIZE = 258
_FIRST_PRINTABLE, _LAST_PRINTABLE = 32, 126

Script = Callable[[list[int]], int]


@dataclass(slots=True)
class Faults:
    """Each set holds numbers of decode calls, counted from 0; `hang_seconds` and `step_seconds` are wall time."""

    no_cells: set[int] = field(default_factory=set)
    fatal: set[int] = field(default_factory=set)
    not_finite: set[int] = field(default_factory=set)
    hang: set[int] = field(default_factory=set)
    hang_seconds: float = 0.0
    step_seconds: float = 0.0
    token_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Cell:
    """One cell of the cache, owned by every sequence id that lists it."""

    position: int
    token: int


@dataclass(slots=True)
class FakeSampler:
    sampling: Sampling
    drawn: int = 0
    closed: bool = False

    def close(self) -> None:
        self.closed = True


class FakeBackend:
    """See the module. `script`, when given, chooses the next token from the visible ones instead of the hash.

    `decodes` counts the calls, `cells` lists those of each sequence id, `samplers` all that were opened.
    """

    def __init__(
        self, script: Script | None = None, faults: Faults | None = None, abilities: Abilities | None = None
    ) -> None:
        self.decodes = 0
        self.cells: dict[int, list[Cell]] = {}
        self._abilities = abilities or Abilities()
        self._max_sequences = 0
        self.samplers: list[FakeSampler] = []
        self._script = script
        self._faults = faults or Faults()
        self._rows: list[Row] = []
        self._max_cells = 0
        self._max_batch = 0

    @property
    def vocab(self) -> VocabFacts:
        return VocabFacts(SIZE, BOS, END, "<s>", "</s>", True, None, 4096, "fake")

    @property
    def threads(self) -> int:
        return 1

    def load(self, record: EngineRecord, progress: Callable[[float], None]) -> Loaded:
        self._max_cells, self._max_batch, self._max_sequences = record.cells, record.batch, record.sequences
        progress(1.0)
        return Loaded(MemoryNumbers(0, 0, 0, 0, 0), 1, True, record.cells, record.batch, self._abilities)

    def embedder(self) -> FakeEmbedder:
        return FakeEmbedder()

    @property
    def used_cells(self) -> int:
        return len({id(cell) for cells in self.cells.values() for cell in cells})

    def tokenize(self, text: str, special: bool) -> list[int]:
        if not special:
            return list(text.encode())
        parts = text.replace("</s>", "\0e").replace("<s>", "\0b").split("\0")
        names = {"b": BOS, "e": END}
        tail = [token for part in parts[1:] for token in [names[part[0]], *part[1:].encode()]]
        return [*parts[0].encode(), *tail]

    def is_control(self, token: int) -> bool:
        return token >= BOS

    def is_end(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < BOS else b""

    def pieces(self) -> list[bytes]:
        return [self.piece(token) for token in range(SIZE)]

    def decode(self, chunks: Sequence[Chunk]) -> None:
        call, self.decodes = self.decodes, self.decodes + 1
        self._misbehave(call, sum(len(chunk.tokens) for chunk in chunks))
        self._check(chunks)
        for chunk in chunks:
            cells = self.cells.setdefault(chunk.sequence.slot, [])
            cells += [Cell(position, token) for position, token in enumerate(chunk.tokens, chunk.start)]
        self._rows = [self._logits(chunk.sequence.slot) for chunk in chunks if chunk.output]
        if call in self._faults.not_finite:
            self._rows[0][:] = np.nan

    def open_sampler(self, sampling: Sampling, tokens: Sequence[int]) -> FakeSampler:
        self.samplers.append(FakeSampler(sampling))
        return self.samplers[-1]

    def sample(self, row: int, sampler: Sampler, allowed: Allowed | None = None) -> int:
        state = cast(FakeSampler, sampler)
        state.drawn += 1
        logits = self._rows[row] if allowed is None else masked(self._rows[row], allowed)
        token = best_token(logits)
        if state.sampling.temperature <= 0:
            return token
        noise = _generator([state.sampling.seed or 0, state.drawn]).standard_normal(SIZE)
        return best_token(logits + noise.astype(np.float32) * np.float32(state.sampling.temperature))

    def logprob(self, row: int, token: int, top: int) -> TokenLogprob:
        return token_logprob(self._rows[row], token, top, self.piece)

    def copy(self, source: int, target: int, length: int) -> None:
        cells = self.cells.get(source, [])
        if self.cells.get(target) or not 0 < length <= len(cells) or self._abilities.sharing == "whole":
            raise BackendError(f"copy of {length} cells of {len(cells)} from {source} to {target}")
        self._check_id(target)
        self.cells[target] = cells[:length]

    def save(self, slot: int) -> bytearray:
        return bytearray(json.dumps([cell.token for cell in self.cells[slot]]).encode())

    def restore(self, slot: int, data: bytearray) -> None:
        tokens = json.loads(data)
        if self.cells.get(slot) or self.used_cells + len(tokens) > self._max_cells:
            raise BackendError(f"the cache does not take {len(tokens)} cells for sequence {slot}")
        self._check_id(slot)
        self.cells[slot] = [Cell(position, token) for position, token in enumerate(tokens)]

    def remove(self, slot: int, start: int = 0) -> None:
        if start and self._abilities.sharing == "whole":
            raise BackendError(f"a part of sequence {slot} cannot be removed")
        del self.cells.get(slot, [])[start:]
        if not self.cells.get(slot):
            self.cells.pop(slot, None)

    def close(self) -> None:
        self.cells.clear()

    def _misbehave(self, call: int, tokens: int) -> None:
        time.sleep(self._faults.step_seconds + self._faults.token_seconds * tokens)
        if call in self._faults.hang:
            time.sleep(self._faults.hang_seconds)
        if call in self._faults.fatal:
            raise BackendError("llama_decode returned -3")
        if call in self._faults.no_cells:
            raise NoCellsError

    def _check(self, chunks: Sequence[Chunk]) -> None:
        new = sum(len(chunk.tokens) for chunk in chunks)
        if new > self._max_batch or len({chunk.sequence.slot for chunk in chunks}) != len(chunks):
            raise BackendError("llama_decode returned -1")
        for chunk in chunks:
            self._check_id(chunk.sequence.slot)
            if chunk.start != len(self.cells.get(chunk.sequence.slot, [])):
                raise BackendError("llama_decode returned -1")
        if new + self.used_cells > self._max_cells:
            raise NoCellsError

    def _check_id(self, slot: int) -> None:
        if not 0 <= slot < self._max_sequences:
            raise BackendError("llama_decode returned -1")

    def _logits(self, slot: int) -> Row:
        visible = [cell.token for cell in self.cells[slot]]
        row = _generator(visible).standard_normal(SIZE).astype(np.float32)
        row[:_FIRST_PRINTABLE] -= 20
        row[_LAST_PRINTABLE + 1 :] -= 20
        if self._script is not None:
            row[self._script(visible)] += 100
        return row


def _generator(numbers: Sequence[int]) -> np.random.Generator:
    digest = hashlib.blake2b(np.asarray(numbers, dtype=np.int64).tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
