"""The nodes of a tree of tokens and how to walk it. Called by `core.prefix`, which knows what the nodes stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Node:
    """Cells of the `tokens` from position `start` on. `running` counts the owners that run."""

    parent: Node | None
    start: int
    tokens: list[int]
    owners: set[int] = field(default_factory=set)
    children: list[Node] = field(default_factory=list)
    running: int = 0
    used_at: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


def split(node: Node, size: int) -> Node:
    """Give the first `size` tokens of `node` a node of their own above it; returns that."""
    assert node.parent is not None  # noqa: S101  (a root has no tokens)
    upper = Node(node.parent, node.start, node.tokens[:size], set(node.owners), [node], node.running, node.used_at)
    siblings = node.parent.children
    siblings[siblings.index(node)] = upper
    node.parent, node.start, node.tokens = upper, node.start + size, node.tokens[size:]
    return upper


def path(node: Node) -> Iterator[Node]:
    """From `node` up to the one below the root."""
    while node.parent is not None:
        yield node
        node = node.parent


def root_of(node: Node) -> Node:
    """The one above all others."""
    while node.parent is not None:
        node = node.parent
    return node


def walk(root: Node, tokens: Sequence[int], without: int = -1) -> tuple[int, int, Node]:
    """The longest match as the fields of `Match`, not counting cells that only `without` owns."""
    best = 0, 0, root
    reached = [(root, 0)]
    while reached:
        parent, pinned = reached.pop()
        for node in parent.children:
            size = 0 if node.owners == {without} else common(node.tokens, tokens, node.start)
            held = pinned + (size if node.running else 0)
            if size:
                best = max(best, (node.start + size, held, node), key=lambda found: found[:2])
            if size and size == len(node.tokens):
                reached.append((node, held))
    return best


def common(mine: Sequence[int], tokens: Sequence[int], start: int = 0) -> int:
    """How many tokens from `start` on equal `mine` from its beginning on."""
    most = min(len(mine), len(tokens) - start)
    if mine[:most] == tokens[start : start + most]:
        return most
    return next(at for at in range(most) if mine[at] != tokens[start + at])
