"""The configuration file: what is read, and the field that every problem names."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.gateway import kit

from paddock_runner.core.config_fields import ConfigProblem
from paddock_runner.core.gateway_config import MAX_BODY_BYTES, Limits, parse
from paddock_runner.core.strict_json import JSONProblem

KEY = kit.new_key()
GOOD: dict[str, Any] = kit.config(
    [kit.model_entry("smollm2", "http://127.0.0.1:1", names=["smollm2", "smollm2:135m"]), kit.model_entry("other")],
    [kit.key_entry(KEY, models=["SmolLM2", "other:latest"], previous={"sha256": "0" * 64, "until": 1790000000})],
    limits={"bodyBytes": 1000, "concurrency": 2, "queueDepth": 3, "queueSeconds": 4, "requestsPerMinute": 5},
)


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def test_a_good_file_is_read_whole() -> None:
    config = parse(encode(GOOD))
    assert config.endpoint == "default/main"
    assert config.limits == Limits(1000, 2, 3, 4, 5, 0)
    assert set(config.routes) == {"smollm2:latest", "smollm2:135m", "other:latest"}
    assert config.routes["smollm2:135m"].backends == ("http://127.0.0.1:1",)
    key = config.keys[0]
    assert key.previous
    assert key.previous.until == 1790000000
    assert [key.may_use(model) for model in config.models] == [True, True]
    assert config.models[0].info.details
    assert config.models[0].info.details["family"] == "llama"


def test_what_is_optional_has_its_default() -> None:
    value = copy.deepcopy(GOOD)
    for name in ("limits", "drainSeconds", "keys", "models"):
        del value[name]
    config = parse(encode(value))
    assert (config.limits, config.drain_seconds, config.keys, config.models) == (Limits(), 30, (), ())


def test_no_bound_for_bodies_is_still_a_bound() -> None:
    assert parse(encode({**GOOD, "limits": {"bodyBytes": 0}})).limits.body_bytes == MAX_BODY_BYTES
    assert parse(encode({**GOOD, "limits": {"bodyBytes": 2**40}})).limits.body_bytes == MAX_BODY_BYTES


def test_a_model_without_facts_is_still_a_route() -> None:
    value = copy.deepcopy(GOOD)
    value["models"][0]["info"] = None
    del value["models"][1]["info"]
    assert [model.info.size for model in parse(encode(value)).models] == [0, 0]


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(top: Any) -> None:
        for step in path[:-1]:
            top = top[step]
        top[path[-1]] = value

    return change


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda top: top.pop(name)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (put("version", value=2), "version"),
        (drop("version"), "version"),
        (put("version", value=True), "version"),
        (put("auth", value=""), "auth"),
        (drop("auth"), "auth"),
        (put("auth", value="None"), "auth"),
        (drop("backendCredential"), "backendCredential"),
        (put("backendCredential", value="two\nlines"), "backendCredential"),
        (put("typo", value=1), "typo"),
        (put("limits", "concurency", value=1), "limits.concurency"),
        (put("limits", "concurrency", value=-1), "limits.concurrency"),
        (put("limits", "concurrency", value=1.5), "limits.concurrency"),
        (put("limits", "concurrency", value="5"), "limits.concurrency"),
        (put("limits", value=[]), "limits"),
        (put("drainSeconds", value=-1), "drainSeconds"),
        (put("apis", value=["olama"]), "apis[0]"),
        (put("apis", value="ollama"), "apis"),
        (put("models", value={}), "models"),
        (put("models", 0, value="smollm2"), "models[0]"),
        (put("models", 0, "names", value=[]), "models[0].names"),
        (put("models", 0, "names", 1, value=7), "models[0].names[1]"),
        (put("models", 1, "names", value=["SMOLLM2:latest"]), "models[1].names"),
        (put("models", 0, "backends", 0, value="http://127.0.0.1:1/path"), "models[0].backends[0]"),
        (put("models", 0, "backends", 0, value="https://user:pw@host"), "models[0].backends[0]"),
        (put("models", 0, "ready", value="yes"), "models[0].ready"),
        (put("models", 0, "info", "size", value=-5), "models[0].info.size"),
        (put("models", 0, "info", "details", value=[]), "models[0].info.details"),
        (put("models", 0, "info", "extra", value=1), "models[0].info.extra"),
        (put("keys", 0, "sha256", value="AB" * 32), "keys[0].sha256"),
        (put("keys", 0, "sha256", value="ab" * 31), "keys[0].sha256"),
        (put("keys", 0, "previous", "sha256", value="x"), "keys[0].previous.sha256"),
        (put("keys", 0, "previous", value={"sha256": "0" * 64}), "keys[0].previous.until"),
        (put("keys", 0, "expires", value="2027-01-01"), "keys[0].expires"),
        (put("keys", 0, "verbs", value="infer"), "keys[0].verbs"),
        (put("keys", value=[GOOD["keys"][0], GOOD["keys"][0]]), "keys[1].sha256"),
        (put("name", value="n" * 2000), "name"),
    ],
)
def test_a_problem_names_its_field(change: Callable[[dict[str, Any]], None], field: str) -> None:
    value = copy.deepcopy(GOOD)
    change(value)
    with pytest.raises(ConfigProblem) as caught:
        parse(encode(value))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize("body", [b"", b"{", b"[1,2", b"\xff"])
def test_a_file_that_is_no_json_is_a_problem(body: bytes) -> None:
    with pytest.raises(JSONProblem):
        parse(body)


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    with pytest.raises(ConfigProblem) as caught:
        parse(encode({**GOOD, "keys": [kit.key_entry(KEY, sha256=KEY)]}))
    assert KEY not in str(caught.value)
