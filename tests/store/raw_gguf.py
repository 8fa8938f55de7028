"""Build GGUF bytes by hand, valid by default and wrong wherever a test says so."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def scalar(kind: int, value: Any) -> bytes:
    return text(value) if kind == STRING else struct.pack("<" + _CODES[kind], value)


def entry(key: str | bytes, kind: int, value: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + scalar(kind, value)


def array(key: str, kind: int, values: list[Any], length: int | None = None) -> bytes:
    head = text(key) + struct.pack("<IIQ", ARRAY, kind, len(values) if length is None else length)
    return head + b"".join(scalar(kind, value) for value in values)


def tensor(name: str | bytes, dimensions: list[int], kind: int = 0, offset: int = 0) -> bytes:
    head = text(name) + struct.pack("<I", len(dimensions)) + struct.pack(f"<{len(dimensions)}q", *dimensions)
    return head + struct.pack("<IQ", kind, offset)


def default_entries() -> dict[str, bytes]:
    tokens = ["<s>", "</s>", "a", "b"]
    return {
        "general.architecture": entry("general.architecture", STRING, "llama"),
        "llama.block_count": entry("llama.block_count", U32, 1),
        "llama.context_length": entry("llama.context_length", U32, 512),
        "llama.embedding_length": entry("llama.embedding_length", U32, 32),
        "llama.attention.head_count": entry("llama.attention.head_count", U32, 2),
        "tokenizer.ggml.model": entry("tokenizer.ggml.model", STRING, "gpt2"),
        "tokenizer.ggml.tokens": array("tokenizer.ggml.tokens", STRING, tokens),
        "tokenizer.ggml.token_type": array("tokenizer.ggml.token_type", I32, [3, 3, 1, 1]),
        "tokenizer.ggml.merges": array("tokenizer.ggml.merges", STRING, ["a b"]),
        "tokenizer.ggml.bos_token_id": entry("tokenizer.ggml.bos_token_id", U32, 0),
        "tokenizer.ggml.eos_token_id": entry("tokenizer.ggml.eos_token_id", U32, 1),
    }


@dataclass
class Raw:
    """A GGUF file in parts; `entries` may be replaced, added to or taken from by key."""

    entries: dict[str, bytes] = field(default_factory=default_entries)
    tensors: list[bytes] = field(default_factory=lambda: [tensor("token_embd.weight", [32, 4])])
    data: bytes = b"\0" * 512
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    entry_count: int | None = None
    alignment: int = 32

    def put(self, **changes: bytes | None) -> Raw:
        """Replace entries (keys with `__` for the dots); None removes one."""
        for key, value in changes.items():
            name = key.replace("__", ".")
            if value is None:
                self.entries.pop(name)
            else:
                self.entries[name] = value
        return self

    def build(self) -> bytes:
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entry_count = len(self.entries) if self.entry_count is None else self.entry_count
        head = self.magic + struct.pack("<IQQ", self.version, tensor_count, entry_count)
        head += b"".join(self.entries.values()) + b"".join(self.tensors)
        return head + b"\0" * (-len(head) % self.alignment) + self.data
