"""Bounded reader of a GGUF header: turns bytes into raw entries without trusting any declared count.

Called by `gguf.read_gguf` and `gguf.read_gguf_from`. The bytes come through a `RangeReader`, so the header of a remote
file is read by a few ranges. Every length is checked against the real file size before a byte is allocated; meaning is
judged in `gguf_check`, `gguf_parameters` and `gguf_vocabulary`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Protocol

from paddock_runner.store.errors import InvalidGGUFError, NotGGUFError, TruncatedGGUFError
from paddock_runner.store.gguf_tables import ARRAY, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING, UINT32, VERSIONS

MAX_HEADER_BYTES = 256 << 20
MAX_ENTRIES = 65_536
MAX_TENSORS = 65_536
MAX_KEY_BYTES = 65_535
MAX_STRING_BYTES = 16 << 20
MAX_TEMPLATE_BYTES = 1 << 20
MAX_ARRAY_ELEMENTS = 16 << 20
MAX_STRINGS = 8 << 20
MAX_TOKENS = 2 << 20
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
KEPT_ELEMENTS = 1024
TOKENS_KEY = "tokenizer.ggml.tokens"
TYPES_KEY = "tokenizer.ggml.token_type"
CHARSMAP_KEY = "tokenizer.ggml.precompiled_charsmap"

_FIRST_CHUNK = 1 << 20
_LAST_CHUNK = 16 << 20
_KEPT_RAW = {TYPES_KEY: MAX_TOKENS, CHARSMAP_KEY: MAX_STRING_BYTES}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

Scalar = int | float | bool | str


class RangeReader(Protocol):
    """Random access to the bytes of a file, local or remote."""

    @property
    def size(self) -> int:
        """The length of the whole file in bytes."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file. May raise a StoreError."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """A `RangeReader` over an open file; the file's own position stays where it is."""

    descriptor: int
    size: int

    @classmethod
    def of(cls, descriptor: int) -> FileRange:
        """The whole file that is open as `descriptor`."""
        return cls(descriptor, os.fstat(descriptor).st_size)

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key's value. For arrays `item_type` and `length` are set, and `value` is None unless the array is small.

    `raw` holds the stored bytes of the few arrays whose content is judged whatever their length.
    """

    value_type: int
    value: Scalar | tuple[Scalar, ...] | None
    item_type: int | None = None
    length: int | None = None
    raw: bytes | None = None


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
    """Reads little-endian values from `source`, in chunks that grow, so that a remote header takes few requests."""

    def __init__(self, source: RangeReader) -> None:
        self._source = source
        self.size = source.size
        self._buffer = b""
        self._at = 0
        self._base = 0
        self._chunk = _FIRST_CHUNK
        self._strings_left = MAX_STRINGS

    @property
    def position(self) -> int:
        return self._base + self._at

    def require(self, count: int, what: str) -> None:
        """Raise unless `count` more bytes exist in the file and in the header's budget."""
        end = self.position + count
        if end > self.size:
            raise TruncatedGGUFError(what, end, self.size)
        if end > MAX_HEADER_BYTES:
            raise InvalidGGUFError(what, f"the header is larger than the limit of {MAX_HEADER_BYTES} bytes")

    def _fill(self, count: int, what: str) -> None:
        self.require(count, what)
        self._base += self._at
        rest = self._buffer[self._at :]
        self._at = 0
        start = self._base + len(rest)
        wanted = min(max(count - len(rest), self._chunk), self.size - start)
        self._buffer = rest + self._source.read_at(start, wanted)
        self._chunk = min(2 * self._chunk, _LAST_CHUNK)
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
            count -= len(self.take(min(count, _FIRST_CHUNK), what))

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
        self._strings_left -= count
        if self._strings_left < 0:
            raise InvalidGGUFError(what, f"its {count} strings bring the header over the limit of {MAX_STRINGS}")
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


def read_raw_header(source: RangeReader) -> RawHeader:
    """Read magic, version, entries and tensor records. Raises NotGGUFError, TruncatedGGUFError, InvalidGGUFError."""
    reader = HeaderReader(source)
    version = _read_version(reader)
    tensor_count = _count(reader, "tensor count", MAX_TENSORS, 24)
    entry_count = _count(reader, "key count", MAX_ENTRIES, 13)
    entries, tokens = _read_entries(reader, entry_count)
    tensors = [_read_tensor(reader, index) for index in range(tensor_count)]
    alignment = _alignment(entries)
    data_offset = -(-reader.position // alignment) * alignment
    return RawHeader(version, entries, tokens, tensors, alignment, data_offset)


def _read_version(reader: HeaderReader) -> int:
    magic = reader.take(min(4, reader.size), "magic")
    if magic != MAGIC:
        swapped = " (big-endian GGUF is not supported)" if magic == MAGIC[::-1] else ""
        raise NotGGUFError(magic, swapped if magic else " (the file is empty)")
    version = reader.u32("version")
    if version & 0xFFFF == 0 and version:
        swapped_version = int.from_bytes(version.to_bytes(4, "little"), "big")
        raise InvalidGGUFError(
            "version",
            f"big-endian files are not supported (version {swapped_version} with swapped bytes)",
        )
    if version not in VERSIONS:
        raise InvalidGGUFError("version", f"{version} is not supported, allowed are 2 and 3; convert the file again")
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
    limit = MAX_TOKENS if key == TOKENS_KEY else MAX_ARRAY_ELEMENTS
    if length > limit:
        raise InvalidGGUFError(shown, f"has {length} elements, the limit is {limit}")
    if item_type == STRING:
        return Entry(ARRAY, _string_array(reader, key, shown, length, tokens), item_type, length)
    return _number_array(reader, key, shown, item_type, length)


def _number_array(reader: HeaderReader, key: str, shown: str, item_type: int, length: int) -> Entry:
    code, width = SCALARS[item_type]
    reader.require(length * width, shown)
    if length <= _KEPT_RAW.get(key, KEPT_ELEMENTS):
        raw = reader.take(length * width, shown)
        value = struct.unpack(f"<{length}{code}", raw) if length <= KEPT_ELEMENTS else None
        return Entry(ARRAY, value, item_type, length, raw if key in _KEPT_RAW else None)
    reader.skip(length * width, shown)
    return Entry(ARRAY, None, item_type, length)


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
        raise InvalidGGUFError("general.alignment", f"{value} must be a 32-bit power of two from 8 to 65536")
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
