"""What tensors, architecture and split keys of a GGUF file must satisfy so that llama.cpp neither aborts nor overreads.

Called by `gguf.read_gguf`; hyperparameters are judged in `gguf_parameters`, the vocabulary in `gguf_vocabulary`. Each
rule stands for a load-time abort, a crash on a later prompt, or a file that cannot run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from paddock_runner.store.errors import InvalidGGUFError, TruncatedGGUFError
from paddock_runner.store.gguf_reader import Entry, RawHeader, RawTensor
from paddock_runner.store.gguf_tables import ARCHITECTURES, INT32, STRING, TENSOR_TYPES, UINT16

MAX_TRAILING_BYTES = 65_536
MAX_PARTS = 1024
_INT64_MAX = (1 << 63) - 1
# llama.cpp has no product with rows of these types and jumps to address 0 instead.
_NOT_WEIGHTS = frozenset({"F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"})
_LOOKUP_TABLE = re.compile(r"(?:^|[._])(?:d2t|t2d|tid2eid)(?:[._]|$)")
_ADDED = re.compile(r"(?:norm(?:_\d)?\.weight|\.bias|rope_(?:freqs|factors_long|factors_short)\.weight)$")


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
    """Names, shapes, types and the exact extents of all tensors against the real file size (bytes).

    Raises InvalidGGUFError, TruncatedGGUFError.
    """
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


def check_weight_types(tensors: Sequence[TensorInfo]) -> None:
    """The types that a model's weights can have, told by the tensors' names. Raises InvalidGGUFError."""
    for tensor in tensors:
        shown = f"tensor {tensor.name!r}"
        if tensor.type in _NOT_WEIGHTS and not _LOOKUP_TABLE.search(tensor.name):
            raise InvalidGGUFError(shown, f"has the type {tensor.type}, which llama.cpp cannot compute with")
        if tensor.type != "F32" and len(tensor.dimensions) == 1 and _ADDED.search(tensor.name):
            raise InvalidGGUFError(shown, f"has the type {tensor.type}; norms, biases and rope factors must be F32")


def check_architecture(entries: dict[str, Entry]) -> str:
    """`general.architecture`, which must be one that the pinned llama.cpp knows. Raises InvalidGGUFError."""
    entry = entries.get("general.architecture")
    if entry is None:
        raise InvalidGGUFError("general.architecture", "is missing")
    if entry.value_type != STRING or entry.value not in ARCHITECTURES:
        raise InvalidGGUFError("general.architecture", f"{str(entry.value)[:64]!r} is not supported by this llama.cpp")
    return str(entry.value)


def check_split(entries: dict[str, Entry]) -> None:
    """Types and ranges of the `split.*` keys, which llama.cpp reads unseen. Raises InvalidGGUFError."""
    count = _split_number(entries, "split.count", UINT16, MAX_PARTS)
    number = _split_number(entries, "split.no", UINT16, MAX_PARTS - 1)
    _split_number(entries, "split.tensors.count", INT32, (1 << 31) - 1)
    if number and number >= count:
        raise InvalidGGUFError("split.no", f"{number} is out of range: split.count is {count}, the first part is 0")


def _split_number(entries: dict[str, Entry], key: str, value_type: int, high: int) -> int:
    entry = entries.get(key)
    if entry is None:
        return 0
    if entry.value_type != value_type or type(entry.value) is not int:
        width = "an unsigned 16-bit" if value_type == UINT16 else "a signed 32-bit"
        raise InvalidGGUFError(key, f"must be {width} number")
    if not 0 <= entry.value <= high:
        raise InvalidGGUFError(key, f"{entry.value} is out of range, allowed are 0 to {high}")
    return entry.value
