"""What garbage collection may take: a table, the form of the live list, and the promise as a property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core.collection import HeldBlob, InvalidLiveError, Root, parse_live, plan_collection
from paddock_runner.core.digest import Digest
from paddock_runner.core.names import HTTP_HOST, PIN_HOST, ModelName

OLD, YOUNG, MIN_AGE = 7200.0, 10.0, 3600.0


def digest(word: str) -> Digest:
    return Digest.of(word.encode())


def pin(word: str, *blobs: str, age: float = OLD) -> Root:
    name = ModelName(digest(word).hex, namespace="sha256", host=PIN_HOST)
    return Root(name, digest(word), frozenset(map(digest, blobs)), age)


def named(word: str, *blobs: str, host: str = "registry.ollama.ai", age: float = OLD) -> Root:
    return Root(ModelName(word, host=host), digest(word), frozenset(map(digest, blobs)), age)


def blob(word: str, age: float = OLD) -> HeldBlob:
    return HeldBlob(digest(word), len(word), age)


@pytest.mark.parametrize(
    ("roots", "blobs", "live", "gone_roots", "gone_blobs"),
    [
        pytest.param([], [], [], [], [], id="nothing"),
        pytest.param([pin("a", "x")], [blob("x")], ["a"], [], [], id="live"),
        pytest.param([pin("a", "x")], [blob("x")], ["b"], ["a"], ["x"], id="dead"),
        pytest.param([pin("a", "x", age=YOUNG)], [blob("x")], ["b"], [], [], id="a young pin"),
        pytest.param([pin("a", "x")], [blob("x", YOUNG)], ["b"], ["a"], [], id="a young blob"),
        pytest.param([pin("a", "x", "y"), pin("b", "y")], [blob("x"), blob("y")], ["b"], ["a"], ["x"], id="shared"),
        pytest.param([named("a", "x")], [blob("x")], ["b"], [], [], id="somebody's name"),
        pytest.param([named("a", "x"), pin("a", "x")], [blob("x")], ["b"], ["a"], [], id="a name and its dead pin"),
        pytest.param([named("a", "x", host=HTTP_HOST)], [blob("x")], ["b"], ["a"], ["x"], id="fetched by URL"),
        pytest.param([named("a", "x", host=HTTP_HOST)], [blob("x")], ["a"], [], [], id="fetched by URL, live"),
        pytest.param([Root(None, digest("a"), frozenset({digest("x")}), OLD)], [blob("x")], [], [], [], id="no name"),
        pytest.param([pin("a", "x")], [blob("x"), blob("z")], ["a"], [], ["z"], id="an orphan"),
        pytest.param([pin("a", "x")], [], ["b"], ["a"], [], id="bytes that are gone already"),
    ],
)
def test_what_goes(
    roots: list[Root], blobs: list[HeldBlob], live: list[str], gone_roots: list[str], gone_blobs: list[str]
) -> None:
    found = plan_collection(roots, blobs, {digest(word) for word in live}, MIN_AGE)
    own = {root.name: root.digest for root in roots}
    assert [own[name] for name in found.names] == [digest(word) for word in gone_roots]
    assert [item.digest for item in found.blobs] == [digest(word) for word in gone_blobs]
    assert found.size == sum(len(word) for word in gone_blobs)


words = st.sampled_from("abcdefgh")
ages = st.floats(0, 20_000)


@st.composite
def any_root(draw: st.DrawFn) -> Root:
    name = draw(
        st.sampled_from([ModelName("m", host=host) for host in (PIN_HOST, HTTP_HOST, "registry.ollama.ai", "x.y")])
        | st.none()
    )
    held = draw(st.frozensets(words, min_size=1).map(lambda found: frozenset(map(digest, found))))
    return Root(name, digest(draw(words)), held, draw(ages))


@given(
    roots=st.lists(any_root(), max_size=12),
    held=st.dictionaries(words, ages),
    live=st.frozensets(words),
    min_age=st.floats(0, 10_000),
)
def test_nothing_that_a_live_or_foreign_manifest_reaches_is_ever_removed(
    roots: list[Root], held: dict[str, float], live: frozenset[str], min_age: float
) -> None:
    wanted = {digest(word) for word in live}
    found = plan_collection(roots, [blob(word, age) for word, age in held.items()], wanted, min_age)
    protected = [root for root in roots if not root.is_own or root.digest in wanted or root.age < min_age]
    reachable = {item for root in protected for item in root.blobs}
    removed = {item.digest for item in found.blobs}
    assert not removed & reachable
    assert all(held_blob.age >= min_age for held_blob in found.blobs)
    assert len(found.names) == len(roots) - len(protected)
    # … and everything else that is old does go.
    assert removed == {digest(word) for word, age in held.items() if age >= min_age} - reachable


def test_live_lists() -> None:
    assert parse_live(b'{"digests":[]}') == frozenset()
    both = f'{{"digests":["{digest("a")}","{digest("b")}","{digest("a")}"]}}'
    assert parse_live(both.encode()) == {digest("a"), digest("b")}


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", '{"digests":null}', '{"digests":{}}', '{"digests":[1]}', '{"digests":["x"]}',
        '{"digests":["sha256:' + "A" * 64 + '"]}', '{"digests":[],"more":1}', '{"digests":[],"digests":[]}',
        '{"digests":["sha256:' + "0" * 64,
    ],
)  # fmt: skip
def test_a_list_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(InvalidLiveError):
        parse_live(text.encode())
