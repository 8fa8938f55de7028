"""The real backend: llama.cpp through llama-cpp-python's low-level API. Called by `engine.child` only.

First the vocabulary alone, then weights and one context with a unified KV cache for all sequences. Native code may
abort the whole process on a bad file or text; nothing here tries to prevent that, the front restarts the process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from paddock_runner.core.engine_facts import VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import Sampling, TokenLogprob
from paddock_runner.core.sequence import Chunk
from paddock_runner.engine.backend import Abilities, BackendError, Loaded, NoCellsError, Sampler
from paddock_runner.engine.grammar import Allowed
from paddock_runner.engine.llama_batch import LlamaBatch
from paddock_runner.engine.llama_bindings import api
from paddock_runner.engine.llama_embed import LlamaEmbedder
from paddock_runner.engine.llama_log import LogCapture
from paddock_runner.engine.llama_model import LlamaModel, context_params
from paddock_runner.engine.llama_samplers import LlamaSampler
from paddock_runner.engine.llama_vocab import Vocabulary
from paddock_runner.engine.logits import Row, best_token, masked, token_logprob
from paddock_runner.engine.threads import ThreadCount

_ENCODER = "the model is an encoder and cannot generate text; set spec.serving.mode to Embed or Rerank"


class LlamaBackend:
    """`engine.backend.Backend` on llama.cpp. One for each process: the library keeps global state."""

    def __init__(self, model_paths: Sequence[Path], log: LogCapture) -> None:
        """Load the vocabulary of a file, or of all parts of a split one in order.

        Raises BackendError with llama.cpp's words.
        """
        self._file = LlamaModel(model_paths, log)
        self._context: Any = None
        self._threads = ThreadCount(1)
        self._memory: Any = None
        self._batch: LlamaBatch | None = None
        self._logits: list[Row] = []
        self._outputs: list[int] = []

    @property
    def vocab(self) -> VocabFacts:
        return self._vocabulary.facts

    @property
    def threads(self) -> int:
        return self._threads.value

    @property
    def _vocabulary(self) -> Vocabulary:
        return self._file.vocabulary

    def embedder(self) -> LlamaEmbedder:
        return LlamaEmbedder(self._file)

    def load(self, record: EngineRecord, progress: Callable[[float], None]) -> Loaded:
        self._file.load(record, progress)
        self._check_decoder()
        self._threads = ThreadCount(record.threads)
        abilities = self._abilities()
        self._context = self._file.context(_context_params(record, abilities, self.threads))
        self._memory = api.llama_get_memory(self._context)
        if not self._memory:
            raise BackendError(_ENCODER)
        batch = api.llama_n_batch(self._context)
        self._batch = LlamaBatch(batch)
        return self._loaded(self.threads, batch, abilities)

    def tokenize(self, text: str, special: bool) -> list[int]:
        return self._vocabulary.tokenize(text, special)

    def is_control(self, token: int) -> bool:
        return self._vocabulary.is_control(token)

    def is_end(self, token: int) -> bool:
        return self._vocabulary.is_end(token)

    def piece(self, token: int) -> bytes:
        return self._vocabulary.piece(token)

    def pieces(self) -> list[bytes]:
        return self._vocabulary.pieces()

    def decode(self, chunks: Sequence[Chunk]) -> None:
        assert self._batch is not None  # noqa: S101  (load comes first)
        self._outputs = self._batch.fill(chunks)
        if self._threads.changed():
            api.llama_set_n_threads(self._context, self.threads, self.threads)
        code = api.llama_decode(self._context, self._batch.native)
        if code == 1:
            raise NoCellsError
        if code != 0:
            raise BackendError(f"llama_decode returned {code}: {self._file.last_words()}")
        self._logits = self._rows(len(self._outputs))

    def open_sampler(self, sampling: Sampling, tokens: Sequence[int]) -> LlamaSampler:
        return LlamaSampler(self._vocabulary.native, self.vocab.size, sampling, tokens)

    def sample(self, row: int, sampler: Sampler, allowed: Allowed | None = None) -> int:
        logits = self._logits[row]
        best = best_token(logits)
        if allowed is None:
            return self._draw(row, sampler, best)
        held = logits.copy()
        logits[:] = masked(logits, allowed)
        try:
            return self._draw(row, sampler, best_token(logits))
        finally:
            # Log-probabilities are those of the model, whatever was allowed.
            logits[:] = held

    def _draw(self, row: int, sampler: Sampler, best: int) -> int:
        drawer = cast(LlamaSampler, sampler)
        return best if drawer.chain is None else drawer.draw(self._logits[row], self._context, self._outputs[row])

    def logprob(self, row: int, token: int, top: int) -> TokenLogprob:
        return token_logprob(self._logits[row], token, top, self.piece)

    def copy(self, source: int, target: int, length: int) -> None:
        api.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def save(self, slot: int) -> bytearray:
        size = api.llama_state_seq_get_size(self._context, slot)
        data = bytearray(size)
        if api.llama_state_seq_get_data(self._context, _bytes_of(data), size, slot) != size:
            raise BackendError(f"the cells of sequence {slot} cannot be copied")
        return data

    def restore(self, slot: int, data: bytearray) -> None:
        if not api.llama_state_seq_set_data(self._context, _bytes_of(data), len(data), slot):
            raise BackendError(f"the cache does not take {len(data)} bytes for sequence {slot}")

    def remove(self, slot: int, start: int = 0) -> None:
        if not api.llama_memory_seq_rm(self._memory, slot, start, -1):
            raise BackendError(f"the cache does not let go of sequence {slot} from {start} on")

    def close(self) -> None:
        if self._context:
            api.llama_free(self._context)
        self._context = None
        self._file.close()

    def _rows(self, count: int) -> list[Row]:
        if not count:
            return []
        # The logits of all outputs lie together, in the order of the batch; only valid until the next decode.
        pointer = api.llama_get_logits(self._context)
        return list(np.ctypeslib.as_array(pointer, shape=(count, self.vocab.size)))

    def _check_decoder(self) -> None:
        if api.llama_model_has_encoder(self._file.native) or not api.llama_model_has_decoder(self._file.native):
            raise BackendError(_ENCODER)

    def _loaded(self, threads: int, batch: int, abilities: Abilities) -> Loaded:
        cells, flash_attention = api.llama_n_ctx(self._context), self._file.flash_attention()
        return Loaded(self._file.memory(), threads, flash_attention, cells, batch, abilities)

    def _abilities(self) -> Abilities:
        return Abilities(
            recurrent=bool(
                api.llama_model_is_recurrent(self._file.native) or api.llama_model_is_hybrid(self._file.native)
            ),
            window=api.llama_model_n_swa(self._file.native),
        )


def _context_params(record: EngineRecord, abilities: Abilities, threads: int) -> Any:
    sequences = record.slots if abilities.recurrent else record.sequences
    # A step has one output for each slot; llama.cpp wants as many as sequences. The default is one for each token.
    return context_params(record, sequences=sequences, outputs=sequences, threads=threads)


def _bytes_of(data: bytearray) -> Any:
    return (ctypes.c_uint8 * len(data)).from_buffer(data)
