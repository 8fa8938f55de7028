"""The prefix tree's idea of the cache against the cells of the fake backend; called by tests of scheduler and loop."""

from __future__ import annotations

from paddock_runner.core.prefix import PrefixTree
from paddock_runner.core.prefix_nodes import Node, path
from paddock_runner.engine.cache_hands import CacheHands
from paddock_runner.engine.fake import Cell, FakeBackend


def nodes(tree: PrefixTree) -> list[Node]:
    found: list[Node] = []
    reached = [child for root in tree._roots.values() for child in root.children]
    while reached:
        found.append(reached.pop())
        reached += found[-1].children
    return found


def check_mirror(tree: PrefixTree, backend: FakeBackend, hands: CacheHands) -> None:
    """Every id owns the same cells with the same tokens here and there, and all numbers are their sums."""
    running = tree._tails.keys() - tree._retained
    held = {one for one, tail in tree._tails.items() if tail.end}
    assert backend.cells.keys() == held
    for one in held:
        mine = [token for node in reversed(list(path(tree._tails[one]))) for token in node.tokens]
        assert [cell.token for cell in backend.cells[one]] == mine
    owners: dict[int, set[int]] = {}
    cells: dict[int, Cell] = {}
    for one, own in backend.cells.items():
        for cell in own:
            cells[id(cell)] = cell
            owners.setdefault(id(cell), set()).add(one)
    for node in nodes(tree):
        assert node.tokens
        assert node.start == (node.parent.end if node.parent else 0)
        assert node.running == len(node.owners & running)
        for one in node.owners:
            assert all(owners[id(cell)] == node.owners for cell in backend.cells[one][node.start : node.end])
    assert tree.used == len(cells) == sum(len(node.tokens) for node in nodes(tree))
    assert tree.pinned == sum(1 for who in owners.values() if who & running)
    assert tree.shared == sum(1 for who in owners.values() if len(who & running) > 1)
    tenants = {tree._tenants[one] for one in tree._tails}
    assert tree._roots.keys() == tenants
    assert len(tree._free) + len(tree._tails) == len(set(tree._free) | tree._tails.keys())
    assert tree.host.keys == hands.saved.keys()
    assert tree.host.used <= max(tree.host._budget, 0)
