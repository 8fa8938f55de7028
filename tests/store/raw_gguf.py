"""Build GGUF bytes by hand, valid by default and wrong wherever a test says so."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

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


@dataclass(frozen=True)
class Weight:
    """A tensor by name, dimensions and type code; its data is zeros."""

    name: str
    dimensions: tuple[int, ...]
    kind: int = 0

    @property
    def size(self) -> int:
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(self.kind)]
        return math.prod(self.dimensions) // block * width


def lay_out(weights: Iterable[Weight], alignment: int = 32) -> tuple[list[bytes], bytes]:
    """The records and the data of these tensors, one after the other."""
    records, offset = [], 0
    for weight in weights:
        records.append(tensor(weight.name, list(weight.dimensions), weight.kind, offset))
        offset += -(-weight.size // alignment) * alignment
    return records, b"\0" * offset


WIDTH, HEADS, KV_HEADS, HIDDEN, LAYERS = 64, 4, 2, 128, 2


def llama_weights(vocabulary: int, experts: int = 0) -> dict[str, Weight]:
    """The tensors of a llama model of this file's sizes, by name."""
    shapes = {"token_embd": (WIDTH, vocabulary), "output_norm": (WIDTH,), "output": (WIDTH, vocabulary)}
    for layer in range(LAYERS):
        own = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH)}
        own |= dict.fromkeys(("attn_k", "attn_v"), (WIDTH, WIDTH // HEADS * KV_HEADS))
        if experts:
            own |= {"ffn_gate_inp": (WIDTH, experts), "ffn_down_exps": (HIDDEN, WIDTH, experts)}
            own |= dict.fromkeys(("ffn_gate_exps", "ffn_up_exps"), (WIDTH, HIDDEN, experts))
        else:
            own |= {"ffn_down": (HIDDEN, WIDTH), "ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    return {f"{name}.weight": Weight(f"{name}.weight", shape) for name, shape in shapes.items()}


def llama_entries(experts: int = 0) -> dict[str, bytes]:
    """The hyperparameters of that model."""
    numbers = {"block_count": LAYERS, "context_length": 512, "embedding_length": WIDTH, "feed_forward_length": HIDDEN}
    numbers |= {"attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.dimension_count": 16}
    if experts:
        numbers |= {"expert_count": experts, "expert_used_count": 2}
    result = {"general.architecture": entry("general.architecture", STRING, "llama")}
    result |= {f"llama.{name}": entry(f"llama.{name}", U32, value) for name, value in numbers.items()}
    epsilon = "llama.attention.layer_norm_rms_epsilon"
    return result | {epsilon: entry(epsilon, F32, 1e-5)}


def vocabulary_entries(model: str, tokens: list[str], kinds: list[int] | None = None) -> dict[str, bytes]:
    """A vocabulary with scores; `kinds` are the token types (1: normal, 3: control, 6: byte)."""
    prefix = "tokenizer.ggml."
    result = {
        f"{prefix}model": entry(f"{prefix}model", STRING, model),
        f"{prefix}tokens": array(f"{prefix}tokens", STRING, tokens),
        f"{prefix}token_type": array(f"{prefix}token_type", I32, kinds or [1] * len(tokens)),
        f"{prefix}scores": array(f"{prefix}scores", F32, [-float(index) for index in range(len(tokens))]),
    }
    if model == "gpt2":
        result[f"{prefix}merges"] = array(f"{prefix}merges", STRING, ["a b"])
    return result


SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), "\u2581", "a", "b"]
SPM_KINDS = [2, 3, 3, *[6] * 256, 1, 1, 1]


def whole(
    entries: Mapping[str, bytes | None] | None = None,
    weights: Mapping[str, Weight | None] | None = None,
    *,
    vocabulary: dict[str, bytes] | None = None,
    size: int = len(SPM_TOKENS),
    experts: int = 0,
) -> Raw:
    """A complete llama model that the real library loads, with these entries and tensors replaced (None removes)."""
    chosen = llama_entries(experts) | (vocabulary or vocabulary_entries("llama", SPM_TOKENS, SPM_KINDS))
    merged = {key: value for key, value in {**chosen, **(entries or {})}.items() if value is not None}
    tensors = {**llama_weights(size, experts), **(weights or {})}
    records, data = lay_out(weight for weight in tensors.values() if weight is not None)
    return Raw(entries=merged, tensors=records, data=data)


class BytesRange:
    """A file in memory as a `RangeReader`; `reads` are the ranges that were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return self.data[offset : offset + size]
