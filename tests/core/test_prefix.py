"""The mirror of the KV cache: what is shared, what is kept, what gives way, and that it is always true."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.core.test_scheduler import record
from tests.support.kv_mirror import check_mirror

from paddock_runner.core.generation import PUBLIC_TENANT
from paddock_runner.core.prefix import EVICT_UNIT, MIN_SHARED, PrefixTree, Sharing
from paddock_runner.core.prefix_host import HostTier
from paddock_runner.core.prefix_operations import Copy, Cut, Forget, Restore, Save
from paddock_runner.core.sequence import Chunk, Sequence
from paddock_runner.engine.backend import Abilities
from paddock_runner.engine.cache_hands import CacheHands
from paddock_runner.engine.fake import FakeBackend

LONG = list(range(100))


def tree_of(sequences: int, host: int = 0, sharing: Sharing = "any") -> PrefixTree:
    return PrefixTree(sequences, 1 << 20, HostTier(host, 1), sharing)


def ran(tree: PrefixTree, tokens: list[int], tenant: str = "") -> int:
    """A sequence that came, was decoded to its last token and left."""
    one, cached = tree.open([*tokens, 0], tenant)
    if tokens[cached:]:
        tree.grow(one, tokens[cached:])
    tree.keep(one)
    return one


def test_a_kept_prefix_is_found_and_copied() -> None:
    tree = tree_of(4)
    first = ran(tree, LONG)
    assert (tree.used, tree.pinned, tree.retained) == (100, 0, 100)
    tree.take_operations()
    second, cached = tree.open([*LONG[:60], 7, 7], "")
    assert cached == 60
    assert tree.take_operations() == [Copy(first, second, 60)]
    assert (tree.used, tree.pinned, tree.retained) == (100, 60, 40)


def test_the_last_token_is_always_decoded_again() -> None:
    tree = tree_of(4)
    ran(tree, LONG)
    assert tree.match(LONG, "").length == 99
    assert tree.match([*LONG, 1], "").length == 100


def test_a_longer_turn_of_the_same_talk_goes_on_under_its_id() -> None:
    tree = tree_of(4)
    first = ran(tree, LONG)
    tree.take_operations()
    second, cached = tree.open([*LONG, 1, 2], "")
    assert (second, cached, tree.take_operations()) == (first, 100, [])


def test_few_tokens_are_not_worth_it() -> None:
    tree = tree_of(4)
    ran(tree, LONG[: MIN_SHARED - 1])
    assert tree.used == 0
    ran(tree, LONG)
    assert tree.match([*LONG[: MIN_SHARED - 1], 7, 7], "").length == 0
    assert tree.match([*LONG[:MIN_SHARED], 7, 7], "").length == MIN_SHARED


def test_tenants_share_nothing() -> None:
    tree = tree_of(4)
    ran(tree, LONG, "a")
    assert tree.match(LONG, "b").length == 0
    one, cached = tree.open(LONG, "b")
    assert cached == 0
    assert not any(isinstance(operation, Copy) for operation in tree.take_operations())
    tree.drop(one)
    tree.evict(1000)
    assert tree._roots == {}


def test_running_sequences_share_and_both_stay() -> None:
    tree = tree_of(4)
    first, _ = tree.open(LONG, "")
    tree.grow(first, LONG)
    second, cached = tree.open([*LONG[:50], 7], "")
    assert cached == 50
    tree.grow(second, [7])
    assert (tree.used, tree.pinned, tree.shared) == (101, 101, 50)
    tree.keep(first)
    assert (tree.pinned, tree.retained, tree.shared) == (51, 50, 0)


def test_what_others_hold_too_is_not_kept_twice() -> None:
    tree = tree_of(8)
    for _ in range(5):
        ran(tree, LONG)
    assert (tree.used, len(tree._retained)) == (100, 1)
    one, _ = tree.open([7, *LONG], "")
    other, _ = tree.open([7, *LONG], "")
    for each in (one, other):
        tree.grow(each, [7, *LONG])
    assert tree.used == 302
    tree.keep(one)
    tree.keep(other)
    assert (tree.used, len(tree._retained)) == (201, 2)


def test_the_least_recently_used_end_gives_way_first() -> None:
    tree = tree_of(8)
    old = ran(tree, [1] * 50 + [2] * 500)
    new = ran(tree, [1] * 50 + [3] * 500)
    tree.take_operations()
    assert tree.evict(1) == EVICT_UNIT
    assert tree.take_operations() == [Cut(old, 550 - EVICT_UNIT)]
    assert tree.evict(500 - EVICT_UNIT) == 500 - EVICT_UNIT
    assert tree.take_operations() == [Cut(old, 50), Cut(old, 0)]
    assert tree.match([1] * 50 + [3] * 10, "").length == 59
    assert tree.evict(10_000) == 550
    assert tree.used == 0
    assert tree.evict(1) == 0
    assert new in {cut.sequence for cut in tree.take_operations() if isinstance(cut, Cut)}


def test_what_runs_never_gives_way() -> None:
    tree = tree_of(8)
    one, _ = tree.open(LONG, "")
    tree.grow(one, LONG)
    ran(tree, [*LONG[:50], *[7] * 30])
    assert tree.evict(1000) == 30
    assert tree.pinned == tree.used == 100


def test_without_a_free_id_the_oldest_kept_one_goes() -> None:
    tree = tree_of(2)
    first, second = ran(tree, [1] * 40), ran(tree, [2] * 40)
    tree.take_operations()
    assert tree.open([3] * 40, "")[0] == first
    assert tree.take_operations() == [Cut(first, 0)]
    assert tree.open([2] * 20 + [4] * 20, "") == (second, 20)
    assert tree.take_operations() == [Cut(second, 20)]
    with pytest.raises(ValueError, match="all ids"):
        tree.open([5] * 40, "")


def test_where_nothing_can_be_copied_or_cut_a_whole_talk_goes_on() -> None:
    tree = tree_of(3, host=1000, sharing="whole")
    one, other = ran(tree, LONG), ran(tree, [*LONG[:50], *[7] * 300])
    assert tree.take_operations() == []
    assert tree.match([*LONG[:99], 1], "").length == 0
    assert tree.match(LONG, "").length == 0, "the last token has to be read again"
    assert tree.match([*LONG, 1], "b").length == 0
    assert tree.open([*LONG, 1], "") == (one, 100)
    assert tree.take_operations() == []
    assert tree.evict(1) == 350
    assert tree.take_operations() == [Cut(other, 0)]
    tree.keep(one)
    assert tree.match([*LONG, 1, 2], "").length == 100


def test_what_leaves_is_saved_and_comes_back() -> None:
    tree = tree_of(4, host=1000)
    one = ran(tree, LONG)
    tree.take_operations()
    tree.evict(1)
    assert tree.take_operations() == [Save(one, 0), Cut(one, 0)]
    assert tree.open([*LONG, 1, 2], "other tenant")[1] == 0
    other, cached = tree.open([*LONG[:80], 1, 2], "")
    assert cached == 80
    assert tree.take_operations() == [Restore(0, other), Cut(other, 80)]
    tree.drop(other)
    whole, cached = tree.open([*LONG, 1, 2], "")
    assert cached == 100
    assert tree.take_operations()[1:] == [Restore(0, whole), Forget(0)]
    assert tree.host.used == 0


def test_what_the_public_tenant_read_is_for_every_tenant_and_stays() -> None:
    tree = tree_of(4, host=1000)
    one = ran(tree, LONG, PUBLIC_TENANT)
    assert (tree.used, tree.take_operations()) == (0, [Save(one, 0), Cut(one, 0)])
    for tenant in ("a", "b"):
        mine, cached = tree.open([*LONG, 1, 2], tenant)
        assert (cached, tree.take_operations()) == (100, [Restore(0, mine)])
        tree.grow(mine, [1] * 70)
        tree.keep(mine)
    tree.evict(1000)  # what goes on from a public prefix is its tenant's own
    assert tree.open([*LONG, *[1] * 70, 2], "c")[1] == 100


def test_the_budget_of_the_host_holds() -> None:
    tree = tree_of(8, host=250)
    for first in range(4):
        ran(tree, [first] * 100)
    tree.take_operations()
    tree.evict(400)
    operations = tree.take_operations()
    assert [one.key for one in operations if isinstance(one, Save)] == [0, 1, 2, 3]
    assert [one.key for one in operations if isinstance(one, Forget)] == [0, 1]
    assert tree.host.used == 200


def test_nothing_is_saved_twice_nor_parts_of_it() -> None:
    tree = tree_of(8, host=10_000)
    ran(tree, LONG)
    tree.evict(100)
    one, cached = tree.open([*LONG, *LONG], "")
    assert cached == 100
    tree.grow(one, LONG[:50])
    tree.keep(one)
    tree.evict(10)
    tree.evict(1000)
    assert tree.host.used == 150
    assert len(tree.host.keys) == 1


def test_what_is_spoilt_is_not_saved() -> None:
    tree = tree_of(8, host=10_000)
    ran(tree, LONG)
    tree.evict(100, save=False)
    assert tree.host.used == tree.used == 0


words = st.lists(st.sampled_from([[1] * 20, [2] * 20, [1] * 7, [3] * 300, [2]]), min_size=1, max_size=5)


class Mirror(RuleBasedStateMachine):
    """Anything that can happen to sequences, with the strict fake beside it."""

    @initialize(
        sequences=st.integers(1, 6), host=st.sampled_from([0, 400, 1 << 20]), sharing=st.sampled_from(["any", "whole"])
    )
    def begin(self, sequences: int, host: int, sharing: Sharing) -> None:
        self.tree = tree_of(sequences, host, sharing)
        self.backend = FakeBackend(abilities=Abilities(window=64 * (sharing == "whole")))
        self.backend.load(record(slots=sequences, cells=1 << 20, batch=1 << 16, sequences=sequences), lambda _: None)
        self.hands = CacheHands(self.backend)
        self.sequences = sequences
        self.running: dict[int, list[int]] = {}

    @precondition(lambda self: len(self.running) < self.sequences)
    @rule(parts=words, tenant=st.sampled_from(["a", "b", PUBLIC_TENANT]))
    def come(self, parts: list[list[int]], tenant: str) -> None:
        tokens = [token for part in parts for token in part]
        one, cached = self.tree.open(tokens, tenant)
        assert 0 <= cached < len(tokens)
        assert one not in self.running
        self.running[one] = tokens[cached:]

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 5), size=st.integers(1, 400), leave=st.sampled_from(["", "keep", "drop"]))
    def go_on(self, which: int, size: int, leave: str) -> None:
        one = sorted(self.running)[which % len(self.running)]
        tokens = self.running[one][:size] or [4]
        self.running[one] = self.running[one][size:]
        self.settle()
        at = len(self.backend.cells.get(one, []))
        self.backend.decode([Chunk(Sequence(0, tokens, 1 << 20, slot=one), at, tokens, False)])
        self.tree.grow(one, tokens)
        if leave:
            del self.running[one]
            (self.tree.keep if leave == "keep" else self.tree.drop)(one)

    @rule(cells=st.integers(1, 700))
    def want_room(self, cells: int) -> None:
        before = self.tree.used
        freed = self.tree.evict(cells)
        assert before - self.tree.used == freed
        assert freed >= min(cells, before - self.tree.pinned)

    @invariant()
    def settle(self) -> None:
        if hasattr(self, "tree"):
            self.hands.apply(self.tree.take_operations())
            check_mirror(self.tree, self.backend, self.hands)

    def teardown(self) -> None:
        if hasattr(self, "tree"):
            for one in self.running:
                self.tree.keep(one)
            self.tree.evict(1 << 20)
            self.settle()
            assert self.tree.used == self.backend.used_cells == 0


TestMirror = Mirror.TestCase
TestMirror.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
