"""The planner and `paddock-runner estimate` say the same about every model and every engine record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.plan.world import make_model
from tests.support.engine_memory import engine
from tests.support.shapes import SHAPES, write_shape

from paddock_operator.core.cluster.verdict import read_verdict
from paddock_operator.core.memory import engine_record
from paddock_operator.core.memory_parts import checked_facts, estimate_parts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.memory import estimate
from paddock_runner.core.memory_facts import memory_facts
from paddock_runner.store.gguf import details, read_gguf

PARTS = ("weights", "kv", "state", "compute", "output", "process", "total")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("shapes")
    return {name: memory_facts(read_gguf(write_shape(folder / name, make()))) for name, make in SHAPES.items()}


def assert_same(facts: dict[str, Any], record: dict[str, Any]) -> None:
    theirs = estimate(facts, 32000, EngineRecord.from_config(record))
    ours = estimate_parts(record, checked_facts(json.loads(json.dumps(facts))), 32000)
    assert {name: getattr(ours, name) for name in PARTS} == {name: getattr(theirs, name) for name in PARTS}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_with_the_planners_own_records(facts: dict[str, dict[str, Any]], name: str) -> None:
    assert checked_facts(facts[name]) == facts[name], "every fact reaches the status"
    for spec in (
        {},
        {"serving": {"mode": "Embed"}},
        {"serving": {"mode": "Rerank", "contextLength": 512}},
        {"serving": {"slots": 2, "flashAttention": "Disabled", "kvCache": {"typeK": "q8_0"}}},
    ):
        assert_same(facts[name], engine_record(make_model(**spec).spec, 4096))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(SHAPES)),
    st.integers(1, 1 << 18),
    st.integers(1, 16),
    st.sampled_from(["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]),
    st.sampled_from(["auto", "on", "off"]),
    st.integers(16, 4096),
    st.sampled_from(["generate", "embed", "rerank"]),
)
def test_with_any_record(
    facts: dict[str, dict[str, Any]], name: str, context: int, slots: int, cache: str, flash: str, batch: int, mode: str
) -> None:
    assert_same(facts[name], engine(context, slots, cache, flashAttention=flash, batch=batch, mode=mode))


def test_facts_reach_the_planner_through_a_pull_result(tmp_path: Path) -> None:
    told = details(read_gguf(write_shape(tmp_path / "x.gguf", SHAPES["gemma3"]())))
    result = {"digest": "sha256:" + "a" * 64, "name": "x:y", "size": 5, "files": [], "details": told}
    line = json.dumps({"event": "result", "result": result}, separators=(",", ":"))
    verdict = read_verdict(line)
    assert verdict is not None
    assert verdict.result is not None
    assert verdict.result.details["memory"] == told["memory"]
    assert len(json.dumps(told["memory"], separators=(",", ":"))) < 300
