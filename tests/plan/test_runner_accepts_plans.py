"""What the plans write is what the runner's own strict parsers accept, at the edges of the schema too."""

from __future__ import annotations

from typing import Any

import pytest
from tests.plan.world import T1, key, make_endpoint, make_model, observe, observe_endpoint, pulled, snapshot

from paddock_operator.core.identity import canonical_json, source_hash
from paddock_operator.core.plan import plan_endpoint, plan_model
from paddock_operator.core.resources import PreviousKey
from paddock_runner.api.settings import parse_settings
from paddock_runner.core import gateway_config

SPECS: list[dict[str, Any]] = [
    {},
    {"serving": {"contextLength": 16, "slots": 1}, "parameters": {"num_batch": 16}},
    {"serving": {"contextLength": 16384, "slots": 256}},
    {"serving": {"contextLength": 4194304, "kvCache": {"cells": 16}}},
    {"serving": {"keepAlive": "999999h999999h999999h999999h"}},
    {"serving": {"keepAlive": "1ms", "flashAttention": "Disabled", "kvCache": {"typeK": "f32", "typeV": "bf16"}}},
    {"parameters": {"use_mlock": True, "num_thread": 1024, "stop": ["x" * 64] * 16, "seed": 4294967295}},
    {"parameters": {"temperature": 10, "repeat_penalty": 0.01, "top_k": 0, "top_n_sigma": -1, "num_predict": -2}},
    {"parameters": {"presence_penalty": -10, "dry_base": 100, "mirostat": 2, "mirostat_eta": 10}},
    {"system": "ü" * 65536, "messages": [{"role": "assistant", "content": ""}] * 64, "template": "{{ .Prompt }}"},
    {"rollout": {"drainSeconds": 0}, "resources": {"cpu": "100m"}},
    {"serving": {"mode": "Embed"}},
    {"serving": {"mode": "Embed", "contextLength": 16, "slots": 256}},
    {"serving": {"mode": "Rerank", "contextLength": 1048576, "kvCache": {"cells": 4194304}}},
    {"serving": {"mode": "Rerank"}, "parameters": {"num_batch": 16}},
]


@pytest.mark.parametrize("spec", SPECS)
def test_serve_configurations(spec: dict[str, Any]) -> None:
    model = make_model(**spec)
    names = tuple(f"name{index}" for index in range(400))
    serve = plan_model(observe(model, pull=pulled(source_hash(model.spec.source)), names=names)).serve
    assert serve is not None
    settings = parse_settings(canonical_json(serve))
    assert settings.record.context_length == serve["engine"]["contextLength"]
    assert set(settings.options) <= set(serve["parameters"])


ENDPOINTS: list[dict[str, Any]] = [
    {"models": [{"name": "smollm2"}]},
    {"models": [{"name": "smollm2"}], "auth": {"none": {}}},
    {"models": [{"name": "smollm2"}, {"name": "ghost"}], "limits": {"queueWait": "1ms", "concurrency": 0}},
    {"models": [{"name": "smollm2", "aliases": ["x", "hf.co/a/b:Q4_K_M"]}, {"name": "raw", "aliases": ["X:latest"]}]},
    {"selector": {"matchLabels": {"none": "match"}}},
]


@pytest.mark.parametrize("spec", ENDPOINTS)
def test_gateway_configurations(spec: dict[str, Any]) -> None:
    raw = snapshot("raw", available=False, digest="", size=0, details={}, modified_at="", addresses=())
    keys = (key(previous=PreviousKey("9" * 64, T1), expires=T1), key("second", "1"), key("third", "3"))
    o = observe_endpoint(make_endpoint(**spec), models={"smollm2": snapshot(), "raw": raw}, keys=keys)
    planned = plan_endpoint(o).gateway
    assert planned is not None
    config = gateway_config.parse(canonical_json(planned))
    assert [model.name for model in config.models] == [entry["name"] for entry in planned["models"]]
    assert len(config.keys) == (0 if planned["auth"] == "none" else 2)
