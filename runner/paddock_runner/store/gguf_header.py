"""The checked header of a GGUF file as a value: metadata, tensors and short names for what many callers ask.

Made by `store.gguf`; `store.gguf_facts` derives everything else that is shown or estimated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from paddock_runner.store.gguf_check import TensorInfo
from paddock_runner.store.gguf_reader import Scalar
from paddock_runner.store.gguf_tables import FILE_TYPES

Kind = Literal["model", "adapter", "projector"]


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """Facts of a checked file. `metadata` holds scalars and small arrays; `array_lengths` the lengths of all arrays.

    `data_offset` and `file_size` are in bytes.
    """

    version: int
    kind: Kind
    architecture: str
    metadata: dict[str, Scalar | tuple[Scalar, ...]]
    array_lengths: dict[str, int]
    tensors: tuple[TensorInfo, ...]
    vocab_size: int
    data_offset: int
    file_size: int

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """A whole number; for a per-layer array its largest element."""
        value = self.metadata.get(key)
        numbers = [item for item in (value if isinstance(value, tuple) else (value,)) if type(item) is int]
        return max(numbers, default=None)

    def own(self, name: str) -> int | None:
        """The architecture's number `name`, e.g. `block_count` for `llama.block_count`."""
        return self.integer(f"{self.architecture}.{name}")

    def per_layer(self, name: str) -> int | tuple[int, ...] | None:
        """The architecture's number `name` as stored: one for all layers, or one for each."""
        value = self.metadata.get(f"{self.architecture}.{name}")
        if isinstance(value, tuple):
            return tuple(int(item) for item in value if isinstance(item, int))
        return value if type(value) is int else None

    @property
    def parameter_count(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def quantization(self) -> str:
        """The file's quantization name, such as Q4_1; by the most bytes when the file does not say."""
        named = FILE_TYPES.get(self.integer("general.file_type") or 0) if "general.file_type" in self.metadata else None
        if named or not self.tensors:
            return named or "unknown"
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type] += tensor.size
        return sizes.most_common(1)[0][0]

    @property
    def chat_template(self) -> str | None:
        return self.text("tokenizer.chat_template")

    @property
    def bos_id(self) -> int | None:
        return self.integer("tokenizer.ggml.bos_token_id")

    @property
    def eos_id(self) -> int | None:
        return self.integer("tokenizer.ggml.eos_token_id")

    @property
    def pooling_type(self) -> int | None:
        return self.own("pooling_type")

    @property
    def part(self) -> tuple[int, int]:
        """Which part of how many a split file is, from 0; (0, 1) for a whole file."""
        return self.integer("split.no") or 0, max(self.integer("split.count") or 1, 1)
