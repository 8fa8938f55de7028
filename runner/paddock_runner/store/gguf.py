"""The GGUF header: one strict, bounded, pure-Python reader for everything that must know a model file.

`read_gguf` is the check of the verified write path and the source of facts for `show`, `pull` and `serve`. No native
code, no allocation by declared counts, about 0.3 s for a vocabulary of 262 144 tokens.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from paddock_runner.store.errors import InvalidGGUFError
from paddock_runner.store.files import open_regular
from paddock_runner.store.gguf_check import (
    TensorInfo,
    check_architecture,
    check_hyperparameters,
    check_tensors,
    check_vocabulary,
)
from paddock_runner.store.gguf_reader import Entry, RawHeader, Scalar, read_raw_header
from paddock_runner.store.gguf_tables import FILE_TYPES

Kind = Literal["model", "adapter", "projector"]


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """Facts of a checked file. `metadata` holds scalars and small arrays; `array_lengths` the lengths of all arrays."""

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


def read_gguf(source: Path | BinaryIO, *, part: bool = False) -> GGUFHeader:
    """Read and check a GGUF file; with `part` it may also be a part of a split model (see `store.split`).

    `source` is a path or a binary file that is open at any position (its position changes). Raises NotGGUFError,
    TruncatedGGUFError, InvalidGGUFError; for a path also NotFoundError and CacheUnusableError (no regular file).
    """
    if isinstance(source, Path):
        with os.fdopen(open_regular(source, follow=True), "rb") as stream:
            return read_gguf(stream, part=part)
    size = os.fstat(source.fileno()).st_size
    source.seek(0)
    return _header(read_raw_header(source, size), size, part)


def check_gguf(stream: BinaryIO) -> None:
    """`read_gguf` for its errors only: the check that the write path runs on model blobs."""
    read_gguf(stream)


def _header(raw: RawHeader, size: int, part: bool) -> GGUFHeader:
    tensors = check_tensors(raw, size)
    number = raw.entries.get("split.no")
    # Only the first part of a split model carries the metadata.
    later = part and number is not None and isinstance(number.value, int) and number.value > 0
    architecture = "" if later and "general.architecture" not in raw.entries else check_architecture(raw.entries)
    kind = _kind(raw.entries, architecture)
    vocab_size = 0
    if kind == "model" and not part:
        _check_whole(raw)
    if kind == "model" and not later:
        check_hyperparameters(raw.entries, architecture)
        vocab_size = check_vocabulary(raw)
    return GGUFHeader(
        version=raw.version,
        kind=kind,
        architecture=architecture,
        metadata={key: entry.value for key, entry in raw.entries.items() if entry.value is not None},
        array_lengths={key: entry.length for key, entry in raw.entries.items() if entry.length is not None},
        tensors=tensors,
        vocab_size=vocab_size or _declared_vocabulary(raw.entries, architecture),
        data_offset=raw.data_offset,
        file_size=size,
    )


def _declared_vocabulary(entries: dict[str, Entry], architecture: str) -> int:
    entry = entries.get(f"{architecture}.vocab_size")
    return entry.value if entry is not None and type(entry.value) is int else 0


def _kind(entries: dict[str, Entry], architecture: str) -> Kind:
    entry = entries.get("general.type")
    named = entry.value if entry is not None else "model"
    if named == "adapter":
        return "adapter"
    return "projector" if named in ("mmproj", "projector") or architecture == "clip" else "model"


def _check_whole(raw: RawHeader) -> None:
    if not raw.tensors:
        raise InvalidGGUFError("tensor count", "a model needs at least one tensor")
    split = raw.entries.get("split.count")
    if split is not None and isinstance(split.value, int) and split.value > 1:
        raise InvalidGGUFError("split.count", f"this is one of {split.value} parts; merge them into one file first")


def human_number(count: int) -> str:
    """A parameter count the way Ollama shows it: 134.52M, 3.2B, 1T."""
    for limit, letter, digits in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= limit:
            scaled = count / limit
            return f"{scaled:.0f}{letter}" if scaled == int(scaled) else f"{scaled:.{digits}f}{letter}"
    return str(count)


def capabilities(header: GGUFHeader, template: str | None = None) -> list[str]:
    """What the model can do, from its header and chat template (`template` replaces the file's own)."""
    if header.pooling_type is not None:
        return ["embedding"]
    text = template or header.chat_template or ""
    result = ["completion"]
    if "tools" in text or ".Tools" in text:
        result.append("tools")
    if ("<think>" in text and "</think>" in text) or "split('</think>')" in text:
        result.append("thinking")
    return result


def details(header: GGUFHeader) -> dict[str, Any]:
    """The `details` object of the pull result (docs/reference/contracts.md); unknown numbers are None."""
    width, heads = header.own("embedding_length"), header.own("attention.head_count")
    per_head = width // heads if width and heads else None
    return {
        "format": "gguf",
        "family": header.architecture,
        "parameterSize": human_number(header.parameter_count),
        "quantization": header.quantization,
        "architecture": header.architecture,
        "contextLength": header.own("context_length"),
        "embeddingLength": width,
        "blockCount": header.own("block_count"),
        "headCount": heads,
        "headCountKV": header.own("attention.head_count_kv") or heads,
        "keyLength": header.own("attention.key_length") or per_head,
        "valueLength": header.own("attention.value_length") or per_head,
        "vocabSize": header.vocab_size,
        "capabilities": capabilities(header),
    }
