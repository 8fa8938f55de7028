"""Which sequence ids own which KV cells: a radix tree over tokens, our own mirror of llama.cpp's unified cache.

No API tells who owns a cell, so every change starts here and leaves as an `Operation` for the backend. Called by
`core.scheduler`. A node stands for a run of cells: its owners own all of them, and all of its ancestors'. Ids that run
nothing keep what they hold as a prefix for later requests until somebody needs the cells. Two nodes may hold the same
tokens in cells of their own (sequences that grew side by side), so siblings may begin alike. Tenants have trees of
their own: nobody can find out what another tenant asked. What the public tenant read goes to host memory at once, and
from there into the tree of each tenant that wants it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from paddock_runner.core.generation import PUBLIC_TENANT
from paddock_runner.core.prefix_host import Entry, HostTier
from paddock_runner.core.prefix_nodes import Node, common, path, root_of, split, walk
from paddock_runner.core.prefix_operations import Copy, Cut, Forget, Operation, Restore

Sharing = Literal["any", "whole"]

# Fewer tokens than this are not worth a copy or an id.
MIN_SHARED = 16
# So many more tokens than in the cache have to be in host memory to be copied in.
MIN_RESTORED = 64
# A retained prefix gives way in pieces of at least so many cells, from its end, so that not every step has to cut.
EVICT_UNIT = 256


@dataclass(frozen=True, slots=True)
class Match:
    """The first `length` tokens are in cells, up to somewhere in `node`; sequences that run hold `pinned` of them."""

    length: int
    pinned: int
    node: Node


class PrefixTree:
    """For `cells` with ids 0 … `sequences` - 1. What has to leave goes to `host`.

    `sharing` "whole": the model's memory cannot be copied or cut. Then a kept sequence is of use only to one that
    begins with all of it, and that goes on under its id.
    """

    def __init__(self, sequences: int, cells: int, host: HostTier, sharing: Sharing = "any") -> None:
        self.used = 0  # cells with an owner
        self.pinned = 0  # those with an owner that runs
        self.shared = 0  # those with several
        self.sharing = sharing
        self.host = host
        self._cells = cells
        self._roots: dict[str, Node] = {}
        self._tails: dict[int, Node] = {}
        self._tenants: dict[int, str] = {}
        self._retained: set[int] = set()
        self._free = list(reversed(range(sequences)))
        self._operations: list[Operation] = []
        self._clock = itertools.count(1)

    @property
    def retained(self) -> int:
        """Cells that only keep prefixes for later."""
        return self.used - self.pinned

    def take_operations(self) -> list[Operation]:
        """What the backend has to do, in this order, before the next decode."""
        operations, self._operations = self._operations, []
        self.host.next_step()
        return operations

    def match(self, tokens: Sequence[int], tenant: str) -> Match:
        """The longest prefix of `tokens` that is in cells; the last token never counts, its logits are wanted."""
        root = self._roots.get(tenant) or Node(None, 0, [])
        found = Match(*walk(root, tokens[:-1])) if self.sharing == "any" else self._whole(root, tokens[:-1], tenant)
        return found if found.length >= MIN_SHARED else Match(0, 0, root)

    def open(self, tokens: Sequence[int], tenant: str) -> tuple[int, int]:
        """An id for a sequence that runs from now on, and how many of its tokens are in its cells already.

        At least one id must be free or retained.
        """
        found = self.match(tokens, tenant)
        saved = self.host.find(tokens[:-1], tenant)
        if saved is not None and saved[1] >= found.length + MIN_RESTORED and self._has_room(saved[0]):
            return self._restore(*saved, tenant)
        end = self._end_at(found)
        sequence = self._id_for(end)
        if sequence not in self._tails:
            self._start(sequence, tenant, end)
        self._retained.discard(sequence)
        self._touch(end, 1)
        return sequence, found.length

    def grow(self, sequence: int, tokens: Sequence[int]) -> None:
        """The backend has decoded `tokens` for `sequence`, which runs."""
        tail = self._tails[sequence]
        if tail.parent is None or tail.children or len(tail.owners) > 1:
            child = Node(tail, tail.end, [], {sequence}, running=1, used_at=next(self._clock))
            tail.children.append(child)
            self._tails[sequence] = tail = child
        tail.tokens.extend(tokens)
        self.used += len(tokens)
        self.pinned += len(tokens)

    def keep(self, sequence: int) -> None:
        """`sequence` runs no longer; its cells stay for later unless others hold the same tokens or they are few."""
        tail = self._tails[sequence]
        self._touch(tail, -1)
        self._retained.add(sequence)
        if self._tenants[sequence] == PUBLIC_TENANT:
            self._save(sequence)
            self._drop(sequence)
            return
        if tail.end < MIN_SHARED or self._is_redundant(sequence):
            self._drop(sequence)
            return
        for other in sorted(self._retained - {sequence}):
            if self._is_redundant(other):
                self._drop(other)

    def drop(self, sequence: int) -> None:
        """`sequence` runs no longer and nothing of it is worth keeping."""
        self._touch(self._tails[sequence], -1)
        self._retained.add(sequence)
        self._drop(sequence)

    def evict(self, cells: int, *, save: bool = True) -> int:
        """Free at least `cells` retained cells, least recently used first. Returns how many it were, 0 for none."""
        before = self.used
        while (missing := cells - (before - self.used)) > 0:
            victim = self._oldest(one for one in self._retained if _is_evictable(self._tails[one]))
            if victim is None:
                break
            tail = self._tails[victim]
            if save:
                self._save(victim)
            self._shorten(victim, tail.end - min(len(tail.tokens), max(missing, EVICT_UNIT)))
        return before - self.used

    def _shorten(self, sequence: int, length: int) -> None:
        if length < MIN_SHARED or self.sharing == "whole":
            self._drop(sequence)
            return
        self._cut(sequence, length)
        if self._is_redundant(sequence):
            self._drop(sequence)

    def _oldest(self, sequences: Iterable[int]) -> int | None:
        return min(sequences, key=lambda one: (self._tails[one].used_at, one), default=None)

    def _is_redundant(self, sequence: int) -> bool:
        """Everything it holds is held by others too: the same cells, or the same tokens in other cells."""
        if len(self._tails[sequence].owners) > 1:
            return True
        tokens = self._tokens(sequence)
        return walk(self._roots[self._tenants[sequence]], tokens, without=sequence)[0] == len(tokens)

    def _tokens(self, sequence: int) -> list[int]:
        return [token for node in reversed(list(path(self._tails[sequence]))) for token in node.tokens]

    def _whole(self, root: Node, tokens: Sequence[int], tenant: str) -> Match:
        mine = [one for one in self._retained if self._tenants[one] == tenant]
        tails = [self._tails[one] for one in mine if common(self._tokens(one), tokens) == self._tails[one].end]
        longest = max(tails, key=lambda tail: tail.end, default=root)
        return Match(longest.end, 0, longest)

    def _save(self, sequence: int) -> None:
        if self.sharing == "any":
            self._operations += self.host.save(sequence, self._tokens(sequence), self._tenants[sequence])

    def _has_room(self, entry: Entry) -> bool:
        return self.sharing == "any" and self.pinned + len(entry.tokens) <= self._cells

    def _restore(self, entry: Entry, length: int, tenant: str) -> tuple[int, int]:
        """An id of `tenant` with the first `length` cells of `entry`; all of them are needed for a moment."""
        self.host.take(entry)
        root = self._roots.get(tenant) or Node(None, 0, [])
        sequence = self._id_for(root)
        self.evict(self.used + len(entry.tokens) - self._cells)
        self._start(sequence, tenant, root)
        self._operations.append(Restore(entry.key, sequence))
        if length < len(entry.tokens):
            self._operations.append(Cut(sequence, length))
        moved = length == len(entry.tokens) and entry.tenant == tenant
        self._operations += [Forget(entry.key)] if moved else self.host.put(entry)
        self.grow(sequence, entry.tokens[:length])
        return sequence, length

    def _id_for(self, end: Node) -> int:
        """A retained id that ends at `end` (nothing need be copied then), a free one, or the least recently used."""
        retained = end.owners & self._retained
        for sequence in sorted(retained):
            if self._tails[sequence] is end:
                return sequence
        if self._free:
            return self._free.pop()
        victim = self._oldest(self._retained)
        if victim is None:
            raise ValueError("all ids belong to sequences that run")
        self._save(victim)
        if victim in retained:
            self._cut(victim, end.end)
            return victim
        self._drop(victim)
        return self._free.pop()

    def _start(self, sequence: int, tenant: str, end: Node) -> None:
        self._roots[tenant] = root_of(end)
        self._tenants[sequence] = tenant
        self._tails[sequence] = end
        if end.parent is not None:
            self._operations.append(Copy(min(end.owners), sequence, end.end))
        for node in path(end):
            node.owners.add(sequence)

    def _end_at(self, found: Match) -> Node:
        """The node that ends with the match; one that goes on behind it is split."""
        node = found.node
        return node if node.end == found.length else split(node, found.length - node.start)

    def _touch(self, tail: Node, change: int) -> None:
        """One owner more or less runs, down to `tail`."""
        for node in path(tail):
            node.used_at = next(self._clock)
            self._count(node, change)

    def _count(self, node: Node, change: int) -> None:
        was, node.running = node.running, node.running + change
        self.pinned += len(node.tokens) * ((node.running > 0) - (was > 0))
        self.shared += len(node.tokens) * ((node.running > 1) - (was > 1))

    def _drop(self, sequence: int) -> None:
        self._cut(sequence, 0)
        self._retained.discard(sequence)
        self._free.append(sequence)
        del self._tails[sequence]
        tenant = self._tenants.pop(sequence)
        if tenant not in self._tenants.values():
            del self._roots[tenant]

    def _cut(self, sequence: int, start: int) -> None:
        """Only of one that does not run."""
        tail = self._tails[sequence]
        if tail.end > start:
            self._operations.append(Cut(sequence, start))
        while tail.parent is not None and tail.end > start:
            if tail.start < start:
                split(tail, start - tail.start)
            tail.owners.discard(sequence)
            if not tail.owners:
                self.used -= len(tail.tokens)
                tail.parent.children.remove(tail)
            tail = tail.parent
        self._tails[sequence] = tail


def _is_evictable(tail: Node) -> bool:
    return not tail.children and not tail.running
