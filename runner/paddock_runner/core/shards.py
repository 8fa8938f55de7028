"""Names of split GGUF files: `stem-00001-of-00003.gguf`.

Used by `core.selection` to treat the parts of one model as one. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_PARTS = 1024
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE)
_SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`, both from 1. `stem` is the path up to `-00001-of-…`; a whole file is part 1 of 1."""

    stem: str
    number: int = 1
    count: int = 1


def is_gguf(path: str) -> bool:
    """Whether the name ends as GGUF files do, in any case."""
    return path.lower().endswith(_SUFFIX)


def parse_shard(path: str) -> Shard:
    """What the path of a GGUF file says about its place; numbers that make no sense leave it a whole file."""
    match = _PART.fullmatch(path)
    if match is not None:
        number, count = int(match[2]), int(match[3])
        if 1 <= number <= count <= MAX_PARTS:
            return Shard(match[1], number, count)
    return Shard(path[: -len(_SUFFIX)] if is_gguf(path) else path)


@dataclass(frozen=True, slots=True)
class SplitFile:
    """The paths of one model, in order; `missing` are the numbers of the parts that are not there."""

    stem: str
    count: int
    paths: tuple[str, ...]
    missing: tuple[int, ...] = ()


def group(paths: Iterable[str]) -> list[SplitFile]:
    """Put the parts of each split file together, in the order in which their first part (by path) appears."""
    found: dict[tuple[str, int], dict[int, str]] = {}
    for path in sorted(paths):
        shard = parse_shard(path)
        found.setdefault((shard.stem, shard.count), {})[shard.number] = path
    return [_split(stem, count, parts) for (stem, count), parts in found.items()]


def _split(stem: str, count: int, parts: dict[int, str]) -> SplitFile:
    missing = tuple(number for number in range(1, count + 1) if number not in parts)
    return SplitFile(stem, count, tuple(parts[number] for number in sorted(parts)), missing)
