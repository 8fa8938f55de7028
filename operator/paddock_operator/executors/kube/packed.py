"""A JSON object that is kept as compressed text and read when somebody looks into it.

Used by `trim` for the large parts of children, which are compared with a manifest now and then and else only wait.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

FAST = 1


class Packed(Mapping[str, Any]):
    """Reads like the dict that it was made of; equal to another one of equal content."""

    __slots__ = ("_packed",)

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._packed = zlib.compress(json.dumps(value, separators=(",", ":")).encode(), FAST)

    def __getitem__(self, name: str) -> Any:
        return _unpacked(self._packed)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_unpacked(self._packed))

    def __len__(self) -> int:
        return len(_unpacked(self._packed))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Packed):
            return self._packed == other._packed or _unpacked(self._packed) == _unpacked(other._packed)
        return _unpacked(self._packed) == other

    __hash__ = None  # type: ignore[assignment]


@lru_cache(maxsize=64)
def _unpacked(packed: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(zlib.decompress(packed))
    return found
