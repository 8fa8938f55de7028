"""Prefixes that left the KV cache and lie in host memory, under a budget of bytes. Called by `core.prefix`.

Copying a cell out and in again costs a thousandth of computing it anew (docs/engine.md), so what has to leave is saved
if it fits. Only the index is here; the bytes are `engine.cache_hands`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from paddock_runner.core.generation import PUBLIC_TENANT
from paddock_runner.core.prefix_nodes import common
from paddock_runner.core.prefix_operations import Forget, HostOperation, Save

# One copy takes the engine's time between two steps; 128 MiB are some 30 ms of it.
MOST_BYTES = 128 << 20
# Fewer tokens than this are not worth a place.
MIN_SAVED = 64


@dataclass(frozen=True, slots=True)
class Entry:
    key: int
    tenant: str
    tokens: list[int]


class HostTier:
    """At most `budget` bytes, `cell_bytes` for each token. A budget of 0 saves nothing."""

    def __init__(self, budget: int, cell_bytes: int) -> None:
        self._budget = budget
        self._cell_bytes = max(cell_bytes, 1)
        self._entries: dict[int, Entry] = {}  # least recently used first
        self._keys = itertools.count()
        self._allowance = MOST_BYTES

    @property
    def cells(self) -> int:
        """Saved ones."""
        return sum(len(entry.tokens) for entry in self._entries.values())

    @property
    def used(self) -> int:
        """Bytes."""
        return self.cells * self._cell_bytes

    @property
    def keys(self) -> set[int]:
        return set(self._entries)

    def next_step(self) -> None:
        """A new step may copy anew."""
        self._allowance = MOST_BYTES

    def save(self, sequence: int, tokens: list[int], tenant: str) -> list[HostOperation]:
        """What to do so that `tokens`, all cells of `sequence`, are here; nothing if they are or are not worth it."""
        size = self._bytes(tokens)
        held = self.find(tokens, tenant)
        if held is not None and held[1] == len(tokens):
            self._entries[held[0].key] = self._entries.pop(held[0].key)
            return []
        if len(tokens) < MIN_SAVED or size > min(self._budget, self._allowance):
            return []
        self._allowance -= size
        entry = Entry(next(self._keys), tenant, tokens)
        return [*self._forget_parts(entry), *self.put(entry), Save(sequence, entry.key)]

    def put(self, entry: Entry) -> list[HostOperation]:
        """Into the index, as the most recently used; the least recently used ones make room."""
        self._entries[entry.key] = entry
        forgotten: list[HostOperation] = []
        while self.used > self._budget:
            oldest = next(iter(self._entries))
            del self._entries[oldest]
            forgotten.append(Forget(oldest))
        return forgotten

    def find(self, tokens: Sequence[int], tenant: str) -> tuple[Entry, int] | None:
        """The entry that begins like `tokens` for longest, the tenant's own or a public one, and how long that is."""
        seen = [entry for entry in self._entries.values() if entry.tenant in (tenant, PUBLIC_TENANT)]
        found = [(entry, common(entry.tokens, tokens)) for entry in seen]
        return max(found, key=lambda one: one[1], default=None)

    def take(self, entry: Entry) -> None:
        """Out of the index; its bytes stay until a Forget."""
        del self._entries[entry.key]

    def _forget_parts(self, entry: Entry) -> list[HostOperation]:
        mine = [one for one in self._entries.values() if one.tenant == entry.tenant]
        parts = [one.key for one in mine if one.tokens == entry.tokens[: len(one.tokens)]]
        for key in parts:
            del self._entries[key]
        return [Forget(key) for key in parts]

    def _bytes(self, tokens: Sequence[int]) -> int:
        return len(tokens) * self._cell_bytes
