"""Bounded streaming reader of a GGUF header: turns bytes into raw entries without trusting any declared count.

Called by `gguf.read_gguf`. Every length is checked against the real file size before a byte is allocated; meaning is
judged in `gguf_check`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from paddock_runner.store.errors import InvalidGGUFError, NotGGUFError, TruncatedGGUFError
from paddock_runner.store.gguf_tables import ARRAY, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING, UINT32, VERSIONS

MAX_HEADER_BYTES = 256 << 20
MAX_ENTRIES = 65_536
MAX_TENSORS = 65_536
MAX_KEY_BYTES = 65_535
MAX_STRING_BYTES = 16 << 20
MAX_TEMPLATE_BYTES = 1 << 20
MAX_ARRAY_ELEMENTS = 16 << 20
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
KEPT_ELEMENTS = 1024
TOKENS_KEY = "tokenizer.ggml.tokens"

_CHUNK = 1 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Entry:
    """One key's value. For arrays `item_type` and `length` are set, and `value` is None unless the array is small."""

    value_type: int
    value: Scalar | tuple[Scalar, ...] | None
    item_type: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class RawTensor:
    name: str
    dimensions: tuple[int, ...]
    type_code: int
    offset: int


@dataclass(frozen=True, slots=True)
class RawHeader:
    """`tokens` are the vocabulary's bytes as stored; `data_offset` is where tensor data begins."""

    version: int
    entries: dict[str, Entry]
    tokens: list[bytes]
    tensors: list[RawTensor]
    alignment: int
    data_offset: int


class HeaderReader:
    """Reads little-endian values from `stream`, whose real length is `size` bytes."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._buffer = b""
        self._at = 0
        self._base = 0

    @property
    def position(self) -> int:
        return self._base + self._at

    def require(self, count: int, what: str) -> None:
        """Raise unless `count` more bytes exist in the file and in the header's budget."""
        end = self.position + count
        if end > self._size:
            raise TruncatedGGUFError(what, end, self._size)
        if end > MAX_HEADER_BYTES:
            raise InvalidGGUFError(what, f"the header is larger than {MAX_HEADER_BYTES} bytes")

    def _fill(self, count: int, what: str) -> None:
        self.require(count, what)
        self._base += self._at
        rest = self._buffer[self._at :]
        self._at = 0
        self._buffer = rest + self._stream.read(max(count - len(rest), _CHUNK))
        if len(self._buffer) < count:
            raise TruncatedGGUFError(what, self._base + count, self._base + len(self._buffer))

    def take(self, count: int, what: str) -> bytes:
        if self._at + count > len(self._buffer):
            self._fill(count, what)
        start = self._at
        self._at += count
        return self._buffer[start : self._at]

    def skip(self, count: int, what: str) -> None:
        self.require(count, what)
        while count:
            count -= len(self.take(min(count, _CHUNK), what))

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def raw_string(self, limit: int, what: str) -> bytes:
        length = self.u64(what)
        if length > limit:
            raise InvalidGGUFError(what, f"its length {length} is over the limit of {limit} bytes")
        return self.take(length, what)

    def string(self, limit: int, what: str) -> str:
        try:
            return self.raw_string(limit, what).decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidGGUFError(what, "is not UTF-8") from None

    def strings(self, count: int, keep: bool, what: str) -> list[bytes]:
        """`count` strings; their bytes only if `keep`. Written for speed: vocabularies hold 262 144 tokens."""
        kept: list[bytes] = []
        unpack = _U64.unpack_from
        for _ in range(count):
            if self._at + 8 > len(self._buffer):
                self._fill(8, what)
            end = self._at + 8 + unpack(self._buffer, self._at)[0]
            if end > len(self._buffer):
                kept_string = self.raw_string(MAX_STRING_BYTES, what)
                if keep:
                    kept.append(kept_string)
                continue
            if keep:
                kept.append(self._buffer[self._at + 8 : end])
            self._at = end
        return kept


def read_raw_header(stream: BinaryIO, size: int) -> RawHeader:
    """Read magic, version, entries and tensor records. Raises NotGGUFError, TruncatedGGUFError, InvalidGGUFError."""
    reader = HeaderReader(stream, size)
    version = _read_version(reader, size)
    tensor_count = _count(reader, "tensor count", MAX_TENSORS, 24)
    entry_count = _count(reader, "key count", MAX_ENTRIES, 13)
    entries, tokens = _read_entries(reader, entry_count)
    tensors = [_read_tensor(reader, index) for index in range(tensor_count)]
    alignment = _alignment(entries)
    data_offset = -(-reader.position // alignment) * alignment
    return RawHeader(version, entries, tokens, tensors, alignment, data_offset)


def _read_version(reader: HeaderReader, size: int) -> int:
    magic = reader.take(min(4, size), "magic")
    if magic != MAGIC:
        hint = (
            " (big-endian GGUF is not supported)"
            if magic == MAGIC[::-1]
            else " (the file is empty)"
            if not magic
            else ""
        )
        raise NotGGUFError(magic, hint)
    version = reader.u32("version")
    if version & 0xFFFF == 0 and version:
        raise InvalidGGUFError("version", "big-endian files are not supported")
    if version not in VERSIONS:
        raise InvalidGGUFError("version", f"{version} is not supported; convert the file to version 3")
    return version


def _count(reader: HeaderReader, what: str, limit: int, smallest: int) -> int:
    count = reader.u64(what)
    if count > limit:
        raise InvalidGGUFError(what, f"{count} is over the limit of {limit}")
    reader.require(count * smallest, what)
    return count


def _read_entries(reader: HeaderReader, count: int) -> tuple[dict[str, Entry], list[bytes]]:
    entries: dict[str, Entry] = {}
    tokens: list[bytes] = []
    for index in range(count):
        key = reader.string(MAX_KEY_BYTES, f"key {index}")
        if not key or "\0" in key:
            raise InvalidGGUFError(f"key {index}", "is empty or holds a NUL")
        if key in entries:
            raise InvalidGGUFError(_shown(key), "appears twice")
        entries[key] = _read_value(reader, key, tokens)
    return entries, tokens


def _shown(text: str) -> str:
    return text if len(text) <= 80 and text.isprintable() else repr(text[:80])


def _read_value(reader: HeaderReader, key: str, tokens: list[bytes]) -> Entry:
    shown = _shown(key)
    value_type = reader.u32(shown)
    if value_type == ARRAY:
        return _read_array(reader, key, shown, tokens)
    if value_type == STRING:
        limit = MAX_TEMPLATE_BYTES if key.startswith("tokenizer.chat_template") else MAX_STRING_BYTES
        return Entry(value_type, reader.string(limit, shown))
    if value_type not in SCALARS:
        raise InvalidGGUFError(shown, f"has the unknown value type {value_type}")
    code, width = SCALARS[value_type]
    return Entry(value_type, struct.unpack("<" + code, reader.take(width, shown))[0])


def _read_array(reader: HeaderReader, key: str, shown: str, tokens: list[bytes]) -> Entry:
    item_type, length = reader.u32(shown), reader.u64(shown)
    if item_type != STRING and item_type not in SCALARS:
        raise InvalidGGUFError(shown, f"is an array of the unsupported type {item_type} (arrays of arrays are refused)")
    if length > MAX_ARRAY_ELEMENTS:
        raise InvalidGGUFError(shown, f"has {length} elements, the limit is {MAX_ARRAY_ELEMENTS}")
    if item_type == STRING:
        return Entry(ARRAY, _string_array(reader, key, shown, length, tokens), item_type, length)
    code, width = SCALARS[item_type]
    reader.require(length * width, shown)
    if length > KEPT_ELEMENTS:
        reader.skip(length * width, shown)
        return Entry(ARRAY, None, item_type, length)
    return Entry(ARRAY, struct.unpack(f"<{length}{code}", reader.take(length * width, shown)), item_type, length)


def _string_array(
    reader: HeaderReader, key: str, shown: str, length: int, tokens: list[bytes]
) -> tuple[Scalar, ...] | None:
    reader.require(length * 8, shown)
    small = length <= KEPT_ELEMENTS
    found = reader.strings(length, small or key == TOKENS_KEY, shown)
    if key == TOKENS_KEY:
        tokens.extend(found)
    return tuple(item.decode("utf-8", "replace") for item in found) if small else None


def _alignment(entries: dict[str, Entry]) -> int:
    entry = entries.get("general.alignment")
    if entry is None:
        return DEFAULT_ALIGNMENT
    value = entry.value
    if entry.value_type != UINT32 or not isinstance(value, int) or not 8 <= value <= 65_536 or value & (value - 1):
        raise InvalidGGUFError("general.alignment", "must be a 32-bit power of two from 8 to 65536")
    return value


def _read_tensor(reader: HeaderReader, index: int) -> RawTensor:
    name = reader.string(MAX_TENSOR_NAME_BYTES, f"tensor {index} name")
    shown = f"tensor {name!r}"
    if not name or "\0" in name:
        raise InvalidGGUFError(shown, "the name is empty or holds a NUL")
    count = reader.u32(shown)
    if not 1 <= count <= MAX_DIMENSIONS:
        raise InvalidGGUFError(shown, f"has {count} dimensions, allowed are 1 to {MAX_DIMENSIONS}")
    dimensions = struct.unpack(f"<{count}q", reader.take(8 * count, shown))
    return RawTensor(name, dimensions, reader.u32(shown), reader.u64(shown))
