"""The GGUF header: one strict, bounded, pure-Python reader for everything that must know a model file.

`read_gguf` is the check of the verified write path and the source of facts for `show`, `pull` and `serve`;
`read_gguf_from` does the same over ranges of a file that is not here yet. No native code, no allocation by declared
counts, about 0.3 s for a vocabulary of 262 144 tokens.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from paddock_runner.store.errors import InvalidGGUFError
from paddock_runner.store.files import open_regular
from paddock_runner.store.gguf_check import check_architecture, check_split, check_tensors, check_weight_types
from paddock_runner.store.gguf_facts import capabilities, details, human_number
from paddock_runner.store.gguf_header import GGUFHeader, Kind
from paddock_runner.store.gguf_parameters import check_parameters
from paddock_runner.store.gguf_reader import Entry, FileRange, RangeReader, RawHeader, read_raw_header
from paddock_runner.store.gguf_vocabulary import check_vocabulary

__all__ = [
    "GGUFHeader",
    "Kind",
    "RangeReader",
    "capabilities",
    "check_gguf",
    "details",
    "human_number",
    "read_gguf",
    "read_gguf_from",
]


def read_gguf(source: Path | BinaryIO, *, part: bool = False) -> GGUFHeader:
    """Read and check a GGUF file; with `part` it may also be a part of a split model (see `store.split`).

    `source` is a path or an open binary file, whose position stays where it is. Raises NotGGUFError,
    TruncatedGGUFError, InvalidGGUFError; for a path also NotFoundError and CacheUnusableError (no regular file).
    """
    if isinstance(source, Path):
        with os.fdopen(open_regular(source, follow=True), "rb") as stream:
            return read_gguf(stream, part=part)
    return read_gguf_from(FileRange.of(source.fileno()), part=part)


def read_gguf_from(reader: RangeReader, *, part: bool = False) -> GGUFHeader:
    """`read_gguf` over ranges: the header of a remote file in a few growing reads (1 MiB first), its data in none.

    Raises NotGGUFError, TruncatedGGUFError, InvalidGGUFError and what `reader` raises.
    """
    return _header(read_raw_header(reader), reader.size, part)


def check_gguf(stream: BinaryIO) -> None:
    """`read_gguf` for its errors only: the check that the write path runs on model blobs."""
    read_gguf(stream)


def _header(raw: RawHeader, size: int, part: bool) -> GGUFHeader:
    tensors = check_tensors(raw, size)
    check_split(raw.entries)
    number = raw.entries.get("split.no")
    # Only the first part of a split model carries the metadata.
    later = part and number is not None and isinstance(number.value, int) and number.value > 0
    architecture = "" if later and "general.architecture" not in raw.entries else check_architecture(raw.entries)
    kind = _kind(raw.entries, architecture)
    vocab_size = 0
    if kind == "model":
        vocab_size = _check_model(raw, architecture, part, later)
        check_weight_types(tensors)
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


def _check_model(raw: RawHeader, architecture: str, part: bool, later: bool) -> int:
    if not part:
        _check_whole(raw)
    if later:
        return 0
    rows = {tensor.name: tensor.dimensions[1] for tensor in raw.tensors if len(tensor.dimensions) == 2}
    check_parameters(raw.entries, architecture, rows)
    return check_vocabulary(raw)


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
