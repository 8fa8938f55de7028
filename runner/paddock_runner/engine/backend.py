"""What the engine loop needs from whatever runs the model: the `Backend` protocol and the errors it may raise.

`engine.llama` is the real one, `engine.fake` a model of hashes that shows every mistake in bookkeeping; the same
contract tests hold both. Called by `engine.loop` and `engine.startup`. Only `tokenize` and `is_control` may be called
from another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from paddock_runner.core.engine_facts import MemoryNumbers, VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import Sampling, TokenLogprob
from paddock_runner.core.prefix import Sharing
from paddock_runner.core.sequence import Chunk

if TYPE_CHECKING:
    from paddock_runner.engine.embed_backend import EmbedBackend
    from paddock_runner.engine.grammar import Allowed


class BackendError(Exception):
    """The model does not load, or a decode failed in a way after which the cache cannot be trusted: end the process."""


class NoCellsError(Exception):
    """A decode found no room in the KV cache; the cache is as it was before."""


class NonFiniteLogitsError(Exception):
    """The model's output for one sequence is not a number. The others are not affected."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the model's memory is like. `window` tokens of a sliding window, 0 for none; `recurrent` also if in part."""

    recurrent: bool = False
    window: int = 0

    @property
    def sharing(self) -> Sharing:
        """Whether any beginning of a sequence can be given to another one, or only all of it.

        With a window llama.cpp overwrites cells that the newest token of their one owner no longer sees; a recurrent
        state has no beginning. But any sequence can go on as another one.
        """
        return "whole" if self.recurrent or self.window else "any"


@dataclass(frozen=True, slots=True)
class Loaded:
    """`cells` and `batch` are what became of the record's numbers."""

    memory: MemoryNumbers
    threads: int
    flash_attention: bool
    cells: int
    batch: int
    abilities: Abilities


class Sampler(Protocol):
    """Sampling state of one sequence. Made by `Backend.open_sampler`, given back by `close`."""

    def close(self) -> None: ...


class Backend(Protocol):
    """A model with its vocabulary from the start, its weights after `load`."""

    @property
    def vocab(self) -> VocabFacts: ...

    @property
    def threads(self) -> int:
        """How many threads compute as of now; follows the CPU quota unless the record names a number."""

    def load(self, record: EngineRecord, progress: Callable[[float], None]) -> Loaded:
        """Load the weights and make the KV cache. Raises BackendError."""

    def embedder(self) -> EmbedBackend:
        """The same model for vectors, in place of `load`, for records of mode embed or rerank."""

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Ids of `text` without BOS; control tokens written out in it count as such only if `special`. Thread-safe."""

    def is_control(self, token: int) -> bool:
        """A token of the prompt format that no ordinary text gives."""

    def is_end(self, token: int) -> bool:
        """The token ends the generation."""

    def piece(self, token: int) -> bytes:
        """The token's bytes; none for control tokens."""

    def pieces(self) -> list[bytes]:
        """The bytes of all tokens, in a new list."""

    def decode(self, chunks: Sequence[Chunk]) -> None:
        """Run one batch. Raises NoCellsError, BackendError."""

    def open_sampler(self, sampling: Sampling, tokens: Sequence[int]) -> Sampler:
        """A sampler for a normal `sampling` (see `core.engine_sampling`) that has seen `tokens`."""

    def sample(self, row: int, sampler: Sampler, allowed: Allowed | None = None) -> int:
        """Draw from the `row`-th output of the last decode, from `allowed` tokens if given, and remember it.

        Raises NonFiniteLogitsError, also if nothing is allowed.
        """

    def logprob(self, row: int, token: int, top: int) -> TokenLogprob:
        """Exact log-probability of `token` and of the `top` best, before any sampler."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Make sequence id `target`, which has no cells, an owner of the first `length` cells of `source`."""

    def save(self, slot: int) -> bytearray:
        """A copy of all cells of a sequence id. Raises BackendError."""

    def restore(self, slot: int, data: bytearray) -> None:
        """Give sequence id `slot`, which has no cells, those of a `save`. Raises BackendError."""

    def remove(self, slot: int, start: int = 0) -> None:
        """Drop the cells of a sequence id from position `start` on. Raises BackendError."""

    def close(self) -> None:
        """Free everything."""
