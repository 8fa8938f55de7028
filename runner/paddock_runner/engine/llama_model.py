"""A GGUF file in llama.cpp: its vocabulary alone at first, then its weights. Called by `engine.llama` and
`engine.llama_embed`, which make the context that fits what the model is for.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paddock_runner.core.engine_facts import MemoryNumbers
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.llama_bindings import api
from paddock_runner.engine.llama_log import LogCapture, buffer_bytes, flash_attention_in_force
from paddock_runner.engine.llama_vocab import Vocabulary

_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}  # (mmap, mlock)


class LlamaModel:
    """One for each process: the library keeps global state. `native` is the llama_model, `vocabulary` its own."""

    def __init__(self, paths: Sequence[Path], log: LogCapture) -> None:
        """Load the vocabulary of a file, or of all parts of a split one in order.

        Raises BackendError with llama.cpp's words.
        """
        self._paths = [os.fsencode(path) for path in paths]
        self._log = log
        log.install()
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.vocab_only = True
        self.native: Any = self._load(params)
        self.vocabulary = Vocabulary(self.native)

    def load(self, record: EngineRecord, progress: Callable[[float], None]) -> None:
        """Put the model with its weights in place of the vocabulary alone. Raises BackendError."""
        native = self._load(self._params(record, progress))
        vocabulary = Vocabulary(native)
        api.llama_model_free(self.native)
        self.native, self.vocabulary = native, vocabulary

    def context(self, params: Any) -> Any:
        """A llama_context; `memory` and `flash_attention` tell of the latest. Raises BackendError."""
        self._log.lines.clear()
        made = api.llama_init_from_model(self.native, params)
        if not made:
            raise BackendError(f"no context: {self.last_words()}")
        return made

    def memory(self) -> MemoryNumbers:
        """Bytes as llama.cpp told them for the latest context; `resident` is 0."""
        sizes = buffer_bytes(self._log.lines)
        return MemoryNumbers(
            weights=api.llama_model_size(self.native),
            kv=sizes.get("KV", 0) + sizes.get("RS", 0),
            compute=sizes.get("compute", 0),
            output=sizes.get("output", 0),
            resident=0,
        )

    def flash_attention(self) -> bool:
        """Whether the context that was made last uses it."""
        return flash_attention_in_force(self._log.lines)

    def last_words(self) -> str:
        """llama.cpp's latest errors."""
        return " | ".join(self._log.errors) or "llama.cpp gave no reason"

    def close(self) -> None:
        """Free the model; its contexts must be gone."""
        api.llama_model_free(self.native)
        self.native = None

    def _load(self, params: Any) -> Any:
        if len(self._paths) == 1:
            model = api.llama_model_load_from_file(self._paths[0], params)
        else:
            # By their paths: llama.cpp would find the other parts by their names, and blobs have none.
            parts = (ctypes.c_char_p * len(self._paths))(*self._paths)
            model = api.llama_model_load_from_splits(parts, len(self._paths), params)
        if not model:
            raise BackendError(f"the model does not load: {self.last_words()}")
        return model

    def _params(self, record: EngineRecord, progress: Callable[[float], None]) -> Any:
        params = api.llama_model_default_params()
        params.n_gpu_layers = record.gpu_layers
        params.load_mode = _LOAD_MODES[record.mmap, record.mlock]
        # Kept on self: llama.cpp holds only the bare pointer.
        self._progress = api.llama_progress_callback(_going_on(progress))
        params.progress_callback = self._progress
        return params


def context_params(record: EngineRecord, *, sequences: int, outputs: int, threads: int) -> Any:
    """What every context has. `outputs` is the most rows that are read from one step."""
    params = api.llama_context_default_params()
    params.n_ctx = record.cells
    params.n_batch = params.n_ubatch = record.batch
    params.n_seq_max = sequences
    params.n_outputs_max = outputs
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = _FLASH_ATTENTION[record.flash_attention]
    params.type_k, params.type_v = _TYPES[record.type_k], _TYPES[record.type_v]
    params.kv_unified = True
    params.no_perf = True
    return params


def _going_on(progress: Callable[[float], None]) -> Callable[[float, object], bool]:
    def report(fraction: float, _: object) -> bool:
        progress(fraction)
        return True

    return report
