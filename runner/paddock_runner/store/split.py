"""Split GGUF files: which files belong together, and the headers of the parts as the header of one model.

Called by `store.model`, `store.create`, `sources.claim` and, as a check of single files, by `sources.fetch`.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from paddock_runner.core.shards import group, is_gguf, parse_shard
from paddock_runner.store.errors import InvalidGGUFError, InvalidModelError, NotFoundError
from paddock_runner.store.files import os_errors
from paddock_runner.store.gguf import GGUFHeader, read_gguf
from paddock_runner.store.gguf_check import TensorInfo

MAX_FOLDER_FILES = 4096


def check_part(stream: BinaryIO) -> None:
    """`store.gguf.check_gguf` for a file that may be one part of a split model."""
    read_gguf(stream, part=True)


def model_files(path: Path) -> tuple[Path, ...]:
    """The GGUF files that `path` stands for, parts in order.

    A file is itself, a first part stands for all parts of its model, a folder for all the GGUF files in it. Raises
    NotFoundError (also for a part that is missing), InvalidModelError (another part than the first, no GGUF file in
    the folder), CacheUnusableError.
    """
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise NotFoundError(f"{path} does not exist")
    shard = parse_shard(path.name)
    if shard.number != 1:
        raise InvalidModelError(
            f"{path.name} is part {shard.number} of {shard.count}; give the first part, the others are found beside it"
        )
    if shard.count == 1:
        return (path,)
    return _complete([item for item in _gguf_names(path.parent) if parse_shard(item).stem == shard.stem], path.parent)


def _in_folder(folder: Path) -> tuple[Path, ...]:
    names = _gguf_names(folder)
    if not names:
        raise InvalidModelError(f"{folder} is a folder without a GGUF file")
    return _complete(names, folder)


def _gguf_names(folder: Path) -> list[str]:
    with os_errors("listing", folder), os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, MAX_FOLDER_FILES + 1)]
    if len(names) > MAX_FOLDER_FILES:
        raise InvalidModelError(f"{folder} holds more than {MAX_FOLDER_FILES} files; give the path of the model's file")
    return [name for name in names if is_gguf(name)]


def _complete(names: Sequence[str], folder: Path) -> tuple[Path, ...]:
    found = group(names)
    for split in found:
        if split.missing:
            listed = ", ".join(map(str, split.missing[:8]))
            raise NotFoundError(f"{folder / split.stem}: of {split.count} parts these are missing: {listed}")
    return tuple(folder / name for split in found for name in split.paths)


def read_parts(paths: Sequence[Path]) -> GGUFHeader:
    """The header of the model that these files are, in this order. Raises what `read_gguf` and `join_headers` raise."""
    return join_headers([read_gguf(path, part=True) for path in paths])


def join_headers(headers: Sequence[GGUFHeader]) -> GGUFHeader:
    """One header for the parts of one model: the first part's facts, the tensors and bytes of all.

    Raises InvalidGGUFError if they are not all the parts, in order, of one model.
    """
    first = headers[0]
    for index, header in enumerate(headers):
        _check_place(header, index, len(headers))
        if header.architecture not in ("", first.architecture):
            raise InvalidGGUFError(
                "general.architecture",
                f"part {index + 1} is of {header.architecture}, the first of {first.architecture}",
            )
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    _check_tensors(first, tensors)
    return dataclasses.replace(first, tensors=tensors, file_size=sum(header.file_size for header in headers))


def _check_place(header: GGUFHeader, index: int, count: int) -> None:
    number, declared = header.part
    if header.kind != "model" and count > 1:
        raise InvalidGGUFError("general.type", f"a part of a model is needed, this is an {header.kind}")
    if declared != count:
        raise InvalidGGUFError(
            "split.count", f"this is one of {declared} parts, but the model has {count} files; take all parts of it"
        )
    if number != index:
        raise InvalidGGUFError("split.no", f"this is part {number + 1}, but it stands in the place of part {index + 1}")


def _check_tensors(first: GGUFHeader, tensors: Sequence[TensorInfo]) -> None:
    if not tensors:
        raise InvalidGGUFError("tensor count", "a model needs at least one tensor")
    declared = first.integer("split.tensors.count")
    if declared is not None and declared != len(tensors):
        raise InvalidGGUFError("split.tensors.count", f"{declared} tensors are declared, the parts hold {len(tensors)}")
    names = Counter(tensor.name for tensor in tensors)
    twice = next((name for name, times in names.items() if times > 1), None)
    if twice is not None:
        raise InvalidGGUFError(f"tensor {twice!r}", "appears in two parts")
