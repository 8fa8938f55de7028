"""One llama_batch that is filled again for every step, through NumPy views of its arrays. Called by `engine.llama`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddock_runner.core.sequence import Chunk
from paddock_runner.engine.llama_bindings import api


class LlamaBatch:
    """`native` is passed to llama_decode after `fill`. The arrays are ours, so nothing has to be freed."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._slots = np.zeros(capacity, dtype=np.int32)
        self._outputs = np.zeros(capacity, dtype=np.int8)
        self._slot_counts = np.ones(capacity, dtype=np.int32)
        first = self._slots.ctypes.data
        one = ctypes.POINTER(ctypes.c_int32)
        addresses = (first + index * self._slots.itemsize for index in range(capacity))
        self._slot_pointers = (one * capacity)(*(ctypes.cast(address, one) for address in addresses))
        self.native = self._native()

    def fill(self, chunks: Sequence[Chunk]) -> list[int]:
        """Returns the batch indices whose logits will be there."""
        at = 0
        indices = []
        for chunk in chunks:
            end = at + len(chunk.tokens)
            self._tokens[at:end] = chunk.tokens
            self._positions[at:end] = range(chunk.start, chunk.start + len(chunk.tokens))
            self._slots[at:end] = chunk.sequence.slot
            self._outputs[at:end] = 0
            if chunk.output:
                self._outputs[end - 1] = 1
                indices.append(end - 1)
            at = end
        self.native.n_tokens = at
        return indices

    def _native(self) -> Any:
        return api.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._slot_counts, ctypes.c_int32),
            seq_id=self._slot_pointers,
            logits=_pointer(self._outputs, ctypes.c_int8),
        )


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
