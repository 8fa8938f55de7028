"""The load-time numbers, and the memory that the planner estimates from them and from what a pull told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plan.world import DETAILS, make_model, observe, pulled, result

from paddock_operator.core.memory import engine_record, estimate
from paddock_operator.core.memory_parts import checked_facts, estimate_parts, kv_bytes
from paddock_operator.core.plan_model import plan_model

FACTS = {
    "input": 28311552, "output": 2304, "blocks": 69000000, "state": 0, "heads": 9, "encoder": False,
    "width": 576, "last": True,
    "caches": [{"window": 0, "key": 5760, "value": 5760}],
    "step": {"token": 30000, "sequence": 0, "plain": 31000, "scored": 9000, "cell": 0},
}  # fmt: skip


def engine(trained: int = 2048, **spec: Any) -> dict[str, Any]:
    return engine_record(make_model(**spec).spec, trained)


@pytest.mark.parametrize(
    ("trained", "spec", "context", "cells"),
    [
        (2048, {}, 2048, 8192),
        (131072, {}, 4096, 16384),
        (0, {}, 4096, 16384),
        (2048, {"serving": {"contextLength": 8192, "slots": 1}}, 8192, 8192),
        (2048, {"parameters": {"num_ctx": 512}}, 512, 2048),
        (2048, {"serving": {"kvCache": {"cells": 4096}}}, 2048, 4096),
        (2048, {"serving": {"kvCache": {"cells": 16}}}, 2048, 2048),
        (2048, {"parameters": {"num_ctx": 4194304}}, 4194304, 4194304),
    ],
)
def test_context_and_cells(trained: int, spec: dict[str, Any], context: int, cells: int) -> None:
    record = engine(trained, **spec)
    assert (record["contextLength"], record["cells"]) == (context, cells)
    assert record["cells"] >= record["contextLength"]


def test_batch_is_never_below_the_slots() -> None:
    record = engine(serving={"slots": 200}, parameters={"num_batch": 16})
    assert (record["batch"], record["sequences"]) == (200, 200)
    record = engine(serving={"slots": 2})
    assert (record["batch"], record["sequences"]) == (512, 18), "and 16 for prefixes"


@pytest.mark.parametrize("mode", ["Embed", "Rerank"])
def test_records_of_models_for_vectors(mode: str) -> None:
    record = engine(8192, serving={"mode": mode})
    numbers = [record[name] for name in ("mode", "contextLength", "slots", "cells", "sequences", "batch")]
    assert numbers == [mode.lower(), 2048, 32, 2048, 32, 2048], "a text fits into one step; there are no prefixes"
    assert engine(512, serving={"mode": mode})["batch"] == 512
    given = engine(8192, serving={"mode": mode, "contextLength": 8192, "slots": 4}, parameters={"num_batch": 256})
    assert [given[name] for name in ("contextLength", "slots", "cells", "batch")] == [8192, 4, 8192, 256]


def test_vectors_of_whole_texts_cost_a_row_of_logits_for_each_token() -> None:
    record = engine(512, serving={"mode": "Embed"})
    whole = estimate_parts(record, {**FACTS, "last": False, "encoder": True, "caches": []}, 30522)
    assert whole.output == 4 * (30522 + 576) * 512
    assert estimate_parts(record, FACTS, 30522).output == 4 * (30522 + 576) * 32


def test_facts_of_earlier_pulls_have_no_width() -> None:
    told = {name: value for name, value in FACTS.items() if name not in ("width", "last")}
    assert checked_facts(told) == {**FACTS, "width": 0, "last": False}


def test_rough_estimate_adds_up_and_survives_missing_facts() -> None:
    sizes = estimate(engine(), DETAILS, 98_000_000)
    assert sizes["kv"] == 8192 * 30 * 3 * 128 * 2
    assert sizes["total"] > sizes["weights"] + sizes["kv"] + sizes["compute"]
    assert estimate(engine(), {}, 5)["kv"] == 0
    without_lengths = {name: value for name, value in DETAILS.items() if name not in ("keyLength", "valueLength")}
    assert estimate(engine(), without_lengths, 0)["kv"] == sizes["kv"]
    assert (
        estimate(engine(serving={"kvCache": {"typeK": "q8_0", "typeV": "q8_0"}}), DETAILS, 0)["kv"] < sizes["kv"] * 0.54
    )
    assert estimate(engine(serving={"flashAttention": "Disabled"}), DETAILS, 0)["compute"] > sizes["compute"]


def test_estimate_from_facts() -> None:
    record = engine()
    sizes = estimate(record, DETAILS | {"memory": FACTS}, 98_000_000, 7_000_000)
    parts = estimate_parts(record, FACTS, 49152)
    assert sizes["weights"] == 28311552 + 2304 + 69000000 + 7_000_000, "tensors, not files; adapters besides"
    assert sizes["kv"] == 8192 * 11520 * 2
    assert parts.compute == 30000 * 520 + 8192 * 520 * 2, "a step for 20 sequences is rounded up"
    assert sizes["compute"] == parts.compute + 4 * 20 * 49152
    assert sizes["total"] == parts.total + 7_000_000


def test_what_costs_more() -> None:
    def compute(**changes: Any) -> int:
        return estimate_parts({**engine(), **changes}, FACTS, 49152).compute

    assert compute(batch=256) * 2 == compute()
    assert compute(flashAttention="off") == (4 * 9 * 8192 + 9000) * 520 + 8192 * 520 * 4
    assert compute(sequences=256, cells=256, batch=256) == 4 * 49152 * 256, "then the logits are the most"
    recurrent = {**FACTS, "state": 1000, "step": {**FACTS["step"], "sequence": 70}}
    parts = estimate_parts(engine(), recurrent, 49152)
    assert (parts.state, parts.compute - compute(sequences=4)) == (4000, 280), "it makes no ids beyond the slots"
    padded = {**FACTS, "caches": [{"window": 0, "key": 10, "value": 10, "padded": 30}]}
    assert kv_bytes({**engine(), "flashAttention": "off"}, padded) == 2 * kv_bytes(engine(), padded)
    encoder = {**FACTS, "caches": [], "encoder": True}
    assert estimate_parts(engine(), encoder, 10).compute == 30000 * 520 + 520 * 520 * 2


@pytest.mark.parametrize(
    "broken",
    [
        None, [], "x", {}, {**FACTS, "input": -1}, {**FACTS, "heads": True}, {**FACTS, "blocks": 1 << 60},
        {**FACTS, "step": {}}, {**FACTS, "caches": 3}, {**FACTS, "caches": [{}]},
        {**FACTS, "caches": FACTS["caches"] * 5},
        {**FACTS, "caches": [{"window": 0, "key": 1, "value": 1, "padded": "2"}]},
    ],
)  # fmt: skip
def test_facts_that_are_none_are_left_out(broken: Any) -> None:
    assert checked_facts(broken) == {}
    assert estimate(engine(), DETAILS | {"memory": broken}, 5) == estimate(engine(), DETAILS, 5)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_no_fact_breaks_the_plan(value: Any) -> None:
    for name in FACTS:
        assert estimate(engine(), DETAILS | {"memory": {**FACTS, name: value}}, 5)["total"] > 0


def test_facts_are_kept_as_they_are() -> None:
    assert checked_facts({**FACTS, "more": "x"}) == FACTS
    assert len(json.dumps(FACTS)) < 400, "a pull result has 4096 bytes in all"


def test_status_has_the_estimate_of_the_facts_with_adapters() -> None:
    model = make_model()
    first = plan_model(observe(model))
    found = result(memory=FACTS)
    files = (*found.files, {"role": "adapter", "digest": "sha256:" + "d" * 64, "size": 1_000_000})
    told = replace(pulled(first.pull_key), result=replace(found, files=files))
    status = plan_model(observe(model, status=first.status, pull=told)).status
    estimated = status["memory"]["estimated"]
    assert estimated["weights"] == 28311552 + 2304 + 69000000 + 1_000_000
    assert status["details"]["memory"] == FACTS
