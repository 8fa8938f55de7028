"""What a GGUF header must satisfy so that llama.cpp neither aborts nor reads past the file.

Called by `gguf.read_gguf`. Each rule stands for a load-time abort, a crash on a later prompt, or a file that cannot
run.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddock_runner.store.errors import InvalidGGUFError, TruncatedGGUFError
from paddock_runner.store.gguf_reader import TOKENS_KEY, Entry, RawHeader, RawTensor
from paddock_runner.store.gguf_tables import (
    ARCHITECTURES,
    ARRAY,
    FLOAT32,
    INT32,
    RECURRENT,
    STRING,
    TENSOR_TYPES,
    UINT32,
)

MAX_TRAILING_BYTES = 65_536
MAX_LAYERS = 512
MAX_EXPERTS = 1024
MAX_WIDTH = 1 << 20
MAX_HEADS = 65_536
MAX_CONTEXT = (1 << 31) - 1
_INT64_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the file; `offset` counts from the start of tensor data, `size` is in bytes."""

    name: str
    type: str
    dimensions: tuple[int, ...]
    offset: int
    size: int

    @property
    def elements(self) -> int:
        result = 1
        for dimension in self.dimensions:
            result *= dimension
        return result


def check_tensors(raw: RawHeader, file_size: int) -> tuple[TensorInfo, ...]:
    """Names, shapes, types and the exact extents of all tensors against the real file size."""
    result: list[TensorInfo] = []
    names: set[str] = set()
    expected = 0
    for tensor in raw.tensors:
        if tensor.name in names:
            raise InvalidGGUFError(f"tensor {tensor.name!r}", "appears twice")
        names.add(tensor.name)
        info = _tensor_info(tensor)
        if info.offset != expected:
            raise InvalidGGUFError(f"tensor {info.name!r}", f"has the offset {info.offset}, expected {expected}")
        expected = -(-(info.offset + info.size) // raw.alignment) * raw.alignment
        result.append(info)
    _check_end(raw, result, file_size)
    return tuple(result)


def _tensor_info(tensor: RawTensor) -> TensorInfo:
    shown = f"tensor {tensor.name!r}"
    if tensor.type_code not in TENSOR_TYPES:
        raise InvalidGGUFError(shown, f"has the unknown type {tensor.type_code}")
    name, block, width = TENSOR_TYPES[tensor.type_code]
    if any(dimension < 1 for dimension in tensor.dimensions):
        raise InvalidGGUFError(shown, f"has a dimension below 1: {tensor.dimensions}")
    info = TensorInfo(tensor.name, name, tensor.dimensions, tensor.offset, 0)
    if info.elements > _INT64_MAX:
        raise InvalidGGUFError(shown, "has more elements than 63 bits can count")
    if tensor.dimensions[0] % block:
        raise InvalidGGUFError(shown, f"rows of {tensor.dimensions[0]} elements are no multiple of {name}'s {block}")
    return TensorInfo(tensor.name, name, tensor.dimensions, tensor.offset, info.elements // block * width)


def _check_end(raw: RawHeader, tensors: list[TensorInfo], file_size: int) -> None:
    if not tensors:
        return
    end = raw.data_offset + tensors[-1].offset + tensors[-1].size
    if end > file_size:
        raise TruncatedGGUFError(f"tensor {tensors[-1].name!r}", end, file_size)
    if file_size - end > MAX_TRAILING_BYTES:
        raise InvalidGGUFError(
            "file size", f"{file_size - end} bytes follow the last tensor, at most {MAX_TRAILING_BYTES} may"
        )


def check_architecture(entries: dict[str, Entry]) -> str:
    """`general.architecture`, which must be one that the pinned llama.cpp knows."""
    entry = entries.get("general.architecture")
    if entry is None:
        raise InvalidGGUFError("general.architecture", "is missing")
    if entry.value_type != STRING or entry.value not in ARCHITECTURES:
        raise InvalidGGUFError("general.architecture", f"{str(entry.value)[:64]!r} is not supported by this llama.cpp")
    return str(entry.value)


def number(entries: dict[str, Entry], key: str, low: int, high: int, required: bool = False) -> int | None:
    """An unsigned 32-bit value within low…high, None when absent and not required."""
    entry = entries.get(key)
    if entry is None:
        if required:
            raise InvalidGGUFError(key, "is missing")
        return None
    if entry.value_type != UINT32 or not isinstance(entry.value, int):
        raise InvalidGGUFError(key, "must be an unsigned 32-bit number")
    if not low <= entry.value <= high:
        raise InvalidGGUFError(key, f"{entry.value} is out of range, allowed are {low} to {high}")
    return entry.value


def _per_layer(entries: dict[str, Entry], key: str, low: int, high: int, layers: int) -> int | None:
    """A number, or an array of one number per layer (0 allowed there); returns the largest."""
    entry = entries.get(key)
    if entry is None or entry.value_type != ARRAY:
        return number(entries, key, low, high)
    values = entry.value if isinstance(entry.value, tuple) else ()
    if entry.item_type not in (UINT32, INT32) or len(values) != layers:
        raise InvalidGGUFError(key, f"must be a number or an array of {layers} numbers, one per layer")
    if any(not isinstance(value, int) or not 0 <= value <= high for value in values):
        raise InvalidGGUFError(key, f"an element is out of range, allowed are 0 to {high}")
    return max(int(value) for value in values)


def check_hyperparameters(entries: dict[str, Entry], architecture: str) -> None:
    """Ranges of the numbers that llama.cpp asserts on or divides by."""
    layers = number(entries, f"{architecture}.block_count", 1, MAX_LAYERS, required=True) or 0
    number(entries, f"{architecture}.context_length", 1, MAX_CONTEXT, required=True)
    width = number(entries, f"{architecture}.embedding_length", 1, MAX_WIDTH, required=True) or 0
    _check_heads(entries, architecture, layers, width)
    experts = number(entries, f"{architecture}.expert_count", 0, MAX_EXPERTS) or 0
    used = _per_layer(entries, f"{architecture}.expert_used_count", 0, MAX_EXPERTS, layers) or 0
    if used > experts or (experts and not used):
        raise InvalidGGUFError(f"{architecture}.expert_used_count", f"{used} does not fit expert_count {experts}")
    number(entries, f"{architecture}.pooling_type", 0, 4)
    number(entries, f"{architecture}.vocab_size", 1, 1 << 24)


def _check_heads(entries: dict[str, Entry], architecture: str, layers: int, width: int) -> None:
    prefix = f"{architecture}.attention"
    lowest = 0 if architecture in RECURRENT else 1
    heads = _per_layer(entries, f"{prefix}.head_count", lowest, min(MAX_HEADS, width), layers)
    kv_heads = _per_layer(entries, f"{prefix}.head_count_kv", 0, MAX_HEADS, layers)
    if heads and kv_heads and kv_heads > heads:
        raise InvalidGGUFError(f"{prefix}.head_count_kv", f"{kv_heads} is more than head_count {heads}")
    key_length = number(entries, f"{prefix}.key_length", 1, MAX_WIDTH)
    number(entries, f"{prefix}.value_length", 1, MAX_WIDTH)
    widest = key_length or (width // heads if heads else width)
    number(entries, f"{architecture}.rope.dimension_count", 0, max(widest, 1))


def check_vocabulary(raw: RawHeader) -> int:
    """Tokens, scores, types and special ids. Returns the number of tokens (0 for a model without a vocabulary)."""
    entries = raw.entries
    model = entries.get("tokenizer.ggml.model")
    if model is None or model.value_type != STRING:
        raise InvalidGGUFError("tokenizer.ggml.model", "is missing or not a string")
    if model.value in ("no_vocab", "none"):
        return 0
    listed = entries.get(TOKENS_KEY)
    if listed is None or listed.item_type != STRING or not raw.tokens:
        raise InvalidGGUFError(TOKENS_KEY, "must be a list of at least one string")
    count = len(raw.tokens)
    _check_same_length(entries, "tokenizer.ggml.scores", (FLOAT32, INT32), count)
    _check_same_length(entries, "tokenizer.ggml.token_type", (INT32,), count)
    _check_tokens(raw.tokens, byte_fallback=model.value == "llama")
    if model.value == "gpt2":
        _check_merges(entries)
    for name in ("bos", "eos"):
        number(entries, f"tokenizer.ggml.{name}_token_id", 0, count - 1)
    return count


def _check_same_length(entries: dict[str, Entry], key: str, types: tuple[int, ...], count: int) -> None:
    entry = entries.get(key)
    if entry is None:
        return
    if entry.item_type not in types:
        raise InvalidGGUFError(key, "has the wrong element type")
    if entry.length != count:
        raise InvalidGGUFError(key, f"has {entry.length} elements, but there are {count} tokens")


def _check_merges(entries: dict[str, Entry]) -> None:
    key = "tokenizer.ggml.merges"
    entry = entries.get(key)
    pre = entries.get("tokenizer.ggml.pre")
    if entry is None and pre is not None and pre.value == "kimi-k2":
        return
    if entry is None or entry.item_type != STRING:
        raise InvalidGGUFError(key, "a gpt2 vocabulary needs its list of merges")


def _check_tokens(tokens: list[bytes], byte_fallback: bool) -> None:
    # llama.cpp reads C strings and gives empty ones a name of their own, so this is its view of the list.
    seen = set(tokens)
    if len(seen) != len(tokens) or any(b"\0" in token for token in seen):
        cut = [token.split(b"\0", 1)[0] for token in tokens]
        seen = {token or b"[EMPTY_%d]" % index for index, token in enumerate(cut)}
    if len(seen) != len(tokens):
        raise InvalidGGUFError(TOKENS_KEY, f"{len(tokens) - len(seen)} tokens appear twice; llama.cpp aborts on that")
    if byte_fallback:
        missing = [value for value in range(256) if b"<0x%02X>" % value not in seen and bytes([value]) not in seen]
        if missing:
            raise InvalidGGUFError(
                TOKENS_KEY, f"the byte token <0x{missing[0]:02X}> is missing; unknown characters would crash"
            )
