"""What the embedding loop needs from whatever runs the model: the `EmbedBackend` protocol.

`engine.llama_embed` is the real one, `engine.embed_fake` one whose vectors are hashes of exactly the tokens and
positions that a text may see; the same contract tests hold both. Called by `engine.embed_loop` and `engine.startup`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from paddock_runner.core.embed_scheduler import Piece
from paddock_runner.core.engine_facts import MemoryNumbers, VocabFacts
from paddock_runner.core.engine_record import EngineRecord

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedLoaded:
    """`limit` is the most tokens of one text. `splits`: a text may be cut into steps. `alone`: one text for a step.

    `cells` is 0 for models without a cache. `score` says that vectors are scores of a reranker.
    """

    memory: MemoryNumbers
    threads: int
    flash_attention: bool
    cells: int
    batch: int
    limit: int
    splits: bool
    alone: bool
    score: bool


@dataclass(frozen=True, slots=True)
class PairForm:
    """How a reranker wants a query and a document: its own `template`, or these tokens around the two."""

    template: str | None
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]


class EmbedBackend(Protocol):
    """An embedding model with its vocabulary from the start, its weights after `load`.

    Only `tokenize`, `is_control` and the properties may be used from another thread.
    """

    @property
    def vocab(self) -> VocabFacts: ...

    @property
    def threads(self) -> int:
        """How many threads compute as of now; follows the CPU quota unless the record names a number."""

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that the model wants before and after every text."""

    @property
    def pair(self) -> PairForm:
        """How a query and a document become one text."""

    def load(self, record: EngineRecord, progress: Callable[[float], None]) -> EmbedLoaded:
        """Load the weights and make the context. Raises BackendError."""

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Ids of `text`; control tokens written out in it count as such only if `special`."""

    def is_control(self, token: int) -> bool:
        """A token of the prompt format that no ordinary text gives."""

    def run(self, pieces: Sequence[Piece]) -> list[Vector]:
        """Compute one step; the vectors of the pieces that are `last`, in their order, as the model gives them.

        A text's cells are gone with its last piece. Raises BackendError.
        """

    def drop(self, slot: int) -> None:
        """Forget the pieces of a text that will not be finished."""

    def close(self) -> None:
        """Free everything."""
