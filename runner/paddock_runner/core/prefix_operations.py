"""What `core.prefix` decides and `engine.cache_hands` does: changes of who owns which cells, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Copy:
    """`target`, which has no cells, becomes an owner of the first `length` cells of `source`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Cut:
    """`sequence` gives up its cells from position `start` on; those that nobody else owns are free."""

    sequence: int
    start: int


@dataclass(frozen=True, slots=True)
class Save:
    """Copy all cells of `sequence` to host memory under `key`."""

    sequence: int
    key: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Copy what was saved under `key` to `sequence`, which has no cells."""

    key: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Nobody wants `key` any more."""

    key: int


HostOperation = Save | Restore | Forget
Operation = Copy | Cut | HostOperation
