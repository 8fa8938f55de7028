"""Names, hashes, durations, quantities, conditions: the small pure parts under the plans."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plan.world import T0, T1, make_model

from paddock_operator.core.clock import duration_seconds, parse_time, seconds_between, unix_seconds
from paddock_operator.core.conditions import MAX_MESSAGE, changes, condition, merge
from paddock_operator.core.endpoint_routes import normal
from paddock_operator.core.identity import canonical_json, child_name, config_hash, selector, source_hash
from paddock_operator.core.quantity import quantity, size_text, whole
from paddock_operator.core.resources import Ref

names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,80}[a-z0-9])?", fullmatch=True)


@given(name=names, suffix=st.sampled_from(["", "pull"]))
def test_child_names_are_service_names(name: str, suffix: str) -> None:
    child = child_name(Ref("Model", "default", name), suffix)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", child)
    assert len(child) <= 52


def test_child_names_tell_identities_apart() -> None:
    refs = [
        Ref(kind, space, name)
        for kind in ("Model", "Endpoint")
        for space in ("a", "b")
        for name in ("llama3.2-3b", "llama3-2-3b", "x" * 253, "x" * 252 + "y")
    ]
    assert len({child_name(ref) for ref in refs}) == len(refs)
    assert child_name(refs[0]).startswith("llama3-2-3b-")
    assert selector(refs[0]) == f"paddock.dev/child={child_name(refs[0])}"


def test_the_hash_is_of_the_bytes_that_are_written() -> None:
    config = {"b": [1, 2.5, None], "a": {"ü": "x"}}
    data = canonical_json(config)
    assert json.loads(data) == config
    assert data == canonical_json({"a": {"ü": "x"}, "b": [1, 2.5, None]})
    assert config_hash(config) == hashlib.sha256(data).hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})


def test_the_source_hash_covers_every_field_of_the_source() -> None:
    sources: list[dict[str, Any]] = [
        {"ollama": {"name": "x"}},
        {"ollama": {"name": "y"}},
        {"ollama": {"name": "x", "digest": "sha256:" + "0" * 64}},
        {"ollama": {"name": "x"}, "resolve": "1"},
        {"model": {"name": "x"}},
    ]
    hashes = [source_hash(make_model(source=source).spec.source) for source in sources]
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == source_hash(make_model(source=sources[0], system="other").spec.source)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("500ms", 0.5), ("1m1s1ms", 61.001), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "1d", "1h ", "-1s", "1.5h"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_seconds(text)


def test_times() -> None:
    assert unix_seconds("1970-01-01T01:00:10+01:00") == 10
    assert seconds_between(T0, T1) == 60
    for text in ("2026-01-01", "2026-01-01T00:00:00", "tomorrow", ""):
        with pytest.raises(ValueError, match=r".+"):
            parse_time(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("6Gi", 6 << 30), ("100M", 100_000_000), (7, 7), ("1500m", 2), ("1.5k", 1500), ("0.5Ti", 1 << 39)],
)
def test_quantities(text: int | str, number: int) -> None:
    assert whole(text) == number


def test_no_quantity_and_sizes_for_people() -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity("lots")
    assert [size_text(size) for size in (0, 999, 98_362_432, 10**13)] == ["0 B", "999 B", "98.4 MB", "10.0 TB"]


def test_reasons_are_a_closed_list_and_messages_bounded() -> None:
    with pytest.raises(ValueError, match="not a reason of condition Ready"):
        condition("Ready", "True", "BecauseISaySo", "", 1)
    assert len(condition("Ready", "True", "Serving", "x" * 5000, 1)["message"]) == MAX_MESSAGE


def test_merge_keeps_times_and_changes_tell_the_difference() -> None:
    old = {"conditions": merge({}, [condition("Ready", "False", "Starting", "a", 1)], T0)}
    same = merge(old, [condition("Ready", "False", "Loading", "b", 1)], T1)
    assert (same[0]["lastTransitionTime"], same[0]["reason"]) == (T0, "Loading")
    turned = merge(old, [condition("Ready", "True", "Serving", "c", 1)], T1)
    assert turned[0]["lastTransitionTime"] == T1
    assert [note.reason for note in changes(old, turned)] == ["Serving"]
    assert changes(old, old["conditions"]) == ()


def test_names_compare_as_clients_mean_them() -> None:
    assert normal("Smol") == normal("smol:latest") == "smol:latest"
    assert normal("host:5000/a/b") == "host:5000/a/b:latest"
