"""The real backend: llama.cpp through llama-cpp-python's low-level API. Called by `engine.child` only.

First the vocabulary alone, then weights and one context with a unified KV cache for all sequences. Native code may
abort the whole process on a bad file or text; nothing here tries to prevent that, the front restarts the process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from paddock_runner.core.engine_facts import MemoryNumbers, VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import Sampling, TokenLogprob
from paddock_runner.core.sequence import Chunk
from paddock_runner.engine.backend import Abilities, BackendError, Loaded, NoCellsError, Sampler
from paddock_runner.engine.llama_batch import LlamaBatch
from paddock_runner.engine.llama_bindings import api
from paddock_runner.engine.llama_log import LogCapture, buffer_bytes, flash_attention_in_force
from paddock_runner.engine.llama_samplers import LlamaSampler
from paddock_runner.engine.llama_vocab import Vocabulary
from paddock_runner.engine.logits import Row, best_token, token_logprob
from paddock_runner.engine.threads import available_threads

_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}  # (mmap, mlock)


class LlamaBackend:
    """`engine.backend.Backend` on llama.cpp. One for each process: the library keeps global state."""

    def __init__(self, model_paths: Sequence[Path], log: LogCapture) -> None:
        """Load the vocabulary of a file, or of all parts of a split one in order.

        Raises BackendError with llama.cpp's words.
        """
        self._paths = [os.fsencode(path) for path in model_paths]
        self._log = log
        log.install()
        api.llama_backend_init()
        self._model = self._load_model(self._vocab_params())
        self._vocabulary = Vocabulary(self._model)
        self._context: Any = None
        self._memory: Any = None
        self._batch: LlamaBatch | None = None
        self._logits: list[Row] = []
        self._outputs: list[int] = []

    @property
    def vocab(self) -> VocabFacts:
        return self._vocabulary.facts

    def load(self, record: EngineRecord, progress: Callable[[float], None]) -> Loaded:
        self._log.lines.clear()
        model = self._load_model(self._model_params(record, progress))
        vocabulary = Vocabulary(model)
        api.llama_model_free(self._model)
        self._model, self._vocabulary = model, vocabulary
        self._check_decoder()
        threads = record.threads or available_threads()
        abilities = self._abilities()
        self._context = api.llama_init_from_model(model, _context_params(record, abilities, threads))
        if not self._context:
            raise BackendError(f"no context: {self._last_words()}")
        self._memory = api.llama_get_memory(self._context)
        batch = api.llama_n_batch(self._context)
        self._batch = LlamaBatch(batch)
        return self._loaded(threads, batch, abilities)

    def tokenize(self, text: str, special: bool) -> list[int]:
        return self._vocabulary.tokenize(text, special)

    def is_control(self, token: int) -> bool:
        return self._vocabulary.is_control(token)

    def is_end(self, token: int) -> bool:
        return self._vocabulary.is_end(token)

    def piece(self, token: int) -> bytes:
        return self._vocabulary.piece(token)

    def decode(self, chunks: Sequence[Chunk]) -> None:
        assert self._batch is not None  # noqa: S101  (load comes first)
        self._outputs = self._batch.fill(chunks)
        code = api.llama_decode(self._context, self._batch.native)
        if code == 1:
            raise NoCellsError
        if code != 0:
            raise BackendError(f"llama_decode returned {code}: {self._last_words()}")
        self._logits = self._rows(len(self._outputs))

    def open_sampler(self, sampling: Sampling, tokens: Sequence[int]) -> LlamaSampler:
        return LlamaSampler(self._vocabulary.native, self.vocab.size, sampling, tokens)

    def sample(self, row: int, sampler: Sampler) -> int:
        best = best_token(self._logits[row])
        drawer = cast(LlamaSampler, sampler)
        return best if drawer.chain is None else drawer.draw(self._logits[row], self._context, self._outputs[row])

    def logprob(self, row: int, token: int, top: int) -> TokenLogprob:
        return token_logprob(self._logits[row], token, top, self.piece)

    def copy(self, source: int, target: int, length: int) -> None:
        api.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def remove(self, slot: int, start: int = 0) -> None:
        if not api.llama_memory_seq_rm(self._memory, slot, start, -1):
            raise BackendError(f"the cache does not let go of sequence {slot} from {start} on")

    def close(self) -> None:
        if self._context:
            api.llama_free(self._context)
        api.llama_model_free(self._model)
        self._context = self._model = None

    def _rows(self, count: int) -> list[Row]:
        if not count:
            return []
        # The logits of all outputs lie together, in the order of the batch; only valid until the next decode.
        pointer = api.llama_get_logits(self._context)
        return list(np.ctypeslib.as_array(pointer, shape=(count, self.vocab.size)))

    def _load_model(self, params: Any) -> Any:
        if len(self._paths) == 1:
            model = api.llama_model_load_from_file(self._paths[0], params)
        else:
            # By their paths: llama.cpp would find the other parts by their names, and blobs have none.
            parts = (ctypes.c_char_p * len(self._paths))(*self._paths)
            model = api.llama_model_load_from_splits(parts, len(self._paths), params)
        if not model:
            raise BackendError(f"the model does not load: {self._last_words()}")
        return model

    def _vocab_params(self) -> Any:
        params = api.llama_model_default_params()
        params.vocab_only = True
        return params

    def _model_params(self, record: EngineRecord, progress: Callable[[float], None]) -> Any:
        params = api.llama_model_default_params()
        params.n_gpu_layers = record.gpu_layers
        params.load_mode = _LOAD_MODES[record.mmap, record.mlock]
        # Kept on self: llama.cpp holds only the bare pointer.
        self._progress = api.llama_progress_callback(_going_on(progress))
        params.progress_callback = self._progress
        return params

    def _check_decoder(self) -> None:
        if api.llama_model_has_encoder(self._model) or not api.llama_model_has_decoder(self._model):
            raise BackendError("the model is an encoder; only text generation with a decoder is served")

    def _loaded(self, threads: int, batch: int, abilities: Abilities) -> Loaded:
        sizes = buffer_bytes(self._log.lines)
        memory = MemoryNumbers(
            weights=api.llama_model_size(self._model),
            kv=sizes.get("KV", 0) + sizes.get("RS", 0),
            compute=sizes.get("compute", 0),
            output=sizes.get("output", 0),
            resident=0,
        )
        flash_attention = flash_attention_in_force(self._log.lines)
        return Loaded(memory, threads, flash_attention, api.llama_n_ctx(self._context), batch, abilities)

    def _abilities(self) -> Abilities:
        return Abilities(
            recurrent=bool(api.llama_model_is_recurrent(self._model) or api.llama_model_is_hybrid(self._model)),
            window=api.llama_model_n_swa(self._model),
        )

    def _last_words(self) -> str:
        return " | ".join(self._log.errors) or "llama.cpp gave no reason"


def _going_on(progress: Callable[[float], None]) -> Callable[[float, object], bool]:
    def report(fraction: float, _: object) -> bool:
        progress(fraction)
        return True

    return report


def _context_params(record: EngineRecord, abilities: Abilities, threads: int) -> Any:
    params = api.llama_context_default_params()
    params.n_ctx = record.cells
    params.n_batch = params.n_ubatch = record.batch
    params.n_seq_max = record.sequences if abilities.prefixes else record.slots
    # A step has one output for each slot; llama.cpp wants as many as sequences. The default is one for each token.
    params.n_outputs_max = params.n_seq_max
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = _FLASH_ATTENTION[record.flash_attention]
    params.type_k, params.type_v = _TYPES[record.type_k], _TYPES[record.type_v]
    params.kv_unified = True
    params.no_perf = True
    return params
