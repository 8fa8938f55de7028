"""Endpoints: the gateway configuration, names, keys, and what the conditions say."""

from __future__ import annotations

from typing import Any

import pytest
from tests.plan.world import DETAILS, T0, T1, A, condition, key, make_endpoint, observe_endpoint, snapshot

from paddock_operator.core.conditions import REASONS
from paddock_operator.core.endpoint_routes import selects
from paddock_operator.core.endpoint_spec import LabelSelector, SelectorRequirement
from paddock_operator.core.identity import config_hash
from paddock_operator.core.observed import EndpointObserved, GatewayObserved
from paddock_operator.core.plan import plan_endpoint
from paddock_operator.core.resources import PreviousKey
from paddock_operator.core.schema import Schemas, status_problems


def config_of(o: EndpointObserved) -> dict[str, Any]:
    config = plan_endpoint(o).gateway
    assert config is not None
    return dict(config)


def serving(o: EndpointObserved) -> EndpointObserved:
    seen = GatewayObserved("ready", config_hash(config_of(o)), o.listen_url)
    return EndpointObserved(
        o.endpoint, o.status, o.models, seen, o.keys, o.backend_credential, o.listen_url, o.now, o.platform
    )


def test_the_configuration_is_the_contracts() -> None:
    config = config_of(observe_endpoint(make_endpoint()))
    assert config == {
        "version": 1,
        "namespace": "default",
        "name": "main",
        "auth": "apiKey",
        "keys": [{"id": "default/first", "sha256": "1" * 64, "models": ["*"], "verbs": ["infer"], "expires": None}],
        "models": [
            {
                "name": "smollm2",
                "names": ["smollm2", "smollm2:135m"],
                "backends": ["http://127.0.0.1:4321"],
                "ready": True,
                "info": {
                    "digest": A.removeprefix("sha256:"),
                    "size": 98001234,
                    "modifiedAt": T0,
                    "details": DETAILS,
                    "capabilities": ["completion"],
                },
            }
        ],
        "backendCredential": "clear",
        "limits": {
            "bodyBytes": 4194304, "concurrency": 64, "queueDepth": 64, "queueSeconds": 30, "requestsPerMinute": 0,
            "tokensPerMinute": 0,
        },
        "apis": ["ollama", "openai"],
        "drainSeconds": 30,
    }  # fmt: skip


def test_limits_and_apis_are_taken_from_spec() -> None:
    limits = {"requestsPerMinute": 60, "concurrency": 0, "queueDepth": 8, "queueWait": "1m30s", "bodyBytes": 2048}
    config = config_of(observe_endpoint(make_endpoint(models=[{"name": "smollm2"}], limits=limits, apis=["openai"])))
    assert config["limits"] == {
        "bodyBytes": 2048, "concurrency": 0, "queueDepth": 8, "queueSeconds": 90, "requestsPerMinute": 60,
        "tokensPerMinute": 0,
    }  # fmt: skip
    assert config["apis"] == ["openai"]


GATEWAYS = [
    (GatewayObserved(), ("False", "Starting")),
    (GatewayObserved("none", message="address in use"), ("False", "NotListening")),
    (GatewayObserved("starting"), ("False", "Starting")),
    (GatewayObserved("ready", "old"), ("False", "Configuring")),
    (GatewayObserved("crashed", restarts=2, message="boom"), ("False", "Crashed")),
]


@pytest.mark.parametrize(("gateway", "expected"), GATEWAYS)
def test_ready_speaks_of_the_gateway(schemas: Schemas, gateway: GatewayObserved, expected: tuple[str, str]) -> None:
    status = plan_endpoint(observe_endpoint(make_endpoint(), gateway=gateway)).status
    assert condition(status, "Ready") == expected
    assert condition(status, "Reconciling") == ("True", expected[1])
    assert status_problems("Endpoint", status, schemas) == ()


def test_ready_when_the_current_configuration_is_in_force(schemas: Schemas) -> None:
    o = observe_endpoint(make_endpoint(), models={"smollm2": snapshot(ready=False, reason="Loading")})
    status = plan_endpoint(serving(o)).status
    assert condition(status, "Ready") == ("True", "GatewayReady"), "readiness never depends on backends"
    assert condition(status, "ModelsReady") == ("False", "ModelNotReady")
    assert (status["url"], status["replicas"], status["readyReplicas"]) == ("http://127.0.0.1:11434", 1, 1)
    assert status_problems("Endpoint", status, schemas) == ()
    assert all(entry["reason"] in REASONS[entry["type"]] for entry in status["conditions"])


def test_a_restart_of_the_gateway_is_no_reconciling() -> None:
    done = plan_endpoint(serving(observe_endpoint(make_endpoint()))).status
    status = plan_endpoint(observe_endpoint(make_endpoint(), status=done, gateway=GatewayObserved("crashed"))).status
    assert condition(status, "Reconciling") == ("", "")
    edited = plan_endpoint(
        observe_endpoint(make_endpoint(2), status=done, gateway=GatewayObserved("ready", "old"))
    ).status
    assert condition(edited, "Reconciling") == ("True", "Configuring")


def test_a_missing_model_is_a_condition(schemas: Schemas) -> None:
    o = observe_endpoint(make_endpoint(models=[{"name": "ghost"}, {"name": "smollm2"}]))
    plan = plan_endpoint(serving(o))
    assert condition(plan.status, "ModelsReady") == ("False", "ModelNotFound")
    assert condition(plan.status, "Ready") == ("True", "GatewayReady")
    assert [entry["reason"] for entry in plan.status["models"]] == ["ModelNotFound", "Serving"]
    assert [entry["name"] for entry in config_of(o)["models"]] == ["smollm2"]
    assert status_problems("Endpoint", plan.status, schemas) == ()


def test_no_model_at_all() -> None:
    plan = plan_endpoint(observe_endpoint(make_endpoint(selector={"matchLabels": {"team": "x"}})))
    assert condition(plan.status, "ModelsReady") == ("False", "NoModels")


CONFLICTS = [
    # created of a and b, who keeps the name
    ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "a"),
    ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", "b"),
    ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "a"),
    ("", "2026-01-01T00:00:00Z", "b"),
]


@pytest.mark.parametrize(("first", "second", "winner"), CONFLICTS)
@pytest.mark.parametrize("turned", [False, True])
def test_the_oldest_keeps_a_name(first: str, second: str, winner: str, turned: bool) -> None:
    entries = [{"name": "a", "aliases": ["chat"]}, {"name": "b", "aliases": ["Chat:latest"]}]
    models = {"a": snapshot("a", created=first), "b": snapshot("b", created=second)}
    o = observe_endpoint(make_endpoint(models=entries[::-1] if turned else entries), models=models)
    plan = plan_endpoint(o)
    assert condition(plan.status, "NameConflict") == ("True", "NameConflict")
    owners = [entry["name"] for entry in config_of(o)["models"] if "chat" in str(entry["names"]).lower()]
    assert owners == [winner]


def test_an_own_name_can_be_lost_and_then_the_model_has_no_route() -> None:
    models = {"a": snapshot("a", created=T0), "b": snapshot("b", created=T1)}
    o = observe_endpoint(make_endpoint(models=[{"name": "a", "aliases": ["b"]}, {"name": "b"}]), models=models)
    assert [(entry["name"], entry["names"]) for entry in config_of(o)["models"]] == [("a", ["a", "b"])]
    assert condition(plan_endpoint(o).status, "NameConflict") == ("True", "NameConflict")


def test_spellings_of_one_name_are_one_name() -> None:
    entries = [{"name": "smollm2", "aliases": ["SmolLM2", "smollm2:latest", "smollm2:135m"]}]
    assert config_of(observe_endpoint(make_endpoint(models=entries)))["models"][0]["names"] == [
        "smollm2",
        "smollm2:135m",
    ]


def test_selector_serves_what_it_selects_in_the_order_of_names() -> None:
    models = {name: snapshot(name, labels={"tier": tier}) for name, tier in (("c", "x"), ("a", "x"), ("b", "y"))}
    o = observe_endpoint(make_endpoint(selector={"matchLabels": {"tier": "x"}}), models=models)
    assert [entry["name"] for entry in config_of(o)["models"]] == ["a", "c"]


REQUIREMENTS = [
    ("In", ("x", "y"), {"k": "x"}, True),
    ("In", ("x",), {}, False),
    ("NotIn", ("x",), {"k": "x"}, False),
    ("NotIn", ("x",), {}, True),
    ("Exists", (), {"k": ""}, True),
    ("Exists", (), {}, False),
    ("DoesNotExist", (), {}, True),
    ("DoesNotExist", (), {"k": "x"}, False),
]


@pytest.mark.parametrize(("operator", "values", "labels", "expected"), REQUIREMENTS)
def test_selector_requirements(operator: str, values: tuple[str, ...], labels: dict[str, str], expected: bool) -> None:
    selector = LabelSelector(match_expressions=(SelectorRequirement("k", operator, values),))
    assert selects(selector, labels) is expected


def ids(spec: dict[str, Any], *keys: Any) -> list[str]:
    o = observe_endpoint(make_endpoint(models=[{"name": "smollm2"}], **spec), keys=keys)
    return [entry["id"] for entry in config_of(o)["keys"]]


def test_keys() -> None:
    one, two = key("one", "1"), key("two", "2")
    of_the_machine = key("x", "3").__class__("local/run", "3" * 64)
    assert ids({}, two, one) == ["default/one", "default/two"]
    assert ids({"auth": {"apiKeys": {}}}, one) == ["default/one"]
    limited: dict[str, Any] = {"auth": {"apiKeys": {"names": ["two"]}}}
    assert ids(limited, one, two, of_the_machine) == ["default/two", "local/run"]
    assert ids({}, key("z", "1"), one) == ["default/one"], "of two keys with one hash the first by name counts"


def test_a_rotated_key_is_compiled_to_seconds() -> None:
    rotated = key(previous=PreviousKey("9" * 64, "1970-01-01T00:01:00Z"), expires="1970-01-02T00:00:00+00:00")
    compiled = config_of(observe_endpoint(make_endpoint(), keys=(rotated,)))["keys"][0]
    assert compiled["previous"] == {"sha256": "9" * 64, "until": 60}
    assert compiled["expires"] == 86400


def test_none_only_when_written() -> None:
    open_to_all = observe_endpoint(make_endpoint(models=[{"name": "smollm2"}], auth={"none": {}}))
    config = config_of(open_to_all)
    assert (config["auth"], config["keys"]) == ("none", [])
    assert plan_endpoint(open_to_all).status["effective"]["auth"] == "none"
    assert config_of(observe_endpoint(make_endpoint(), keys=()))["auth"] == "apiKey"


def test_zero_replicas_run_no_gateway(schemas: Schemas) -> None:
    plan = plan_endpoint(observe_endpoint(make_endpoint(models=[{"name": "smollm2"}], replicas=0)))
    assert plan.gateway is None
    assert condition(plan.status, "Ready") == ("False", "ScaledToZero")
    assert condition(plan.status, "Reconciling") == ("", "")
    assert status_problems("Endpoint", plan.status, schemas) == ()


def test_a_model_that_was_never_resolved_still_makes_a_sound_configuration() -> None:
    raw = snapshot(ready=False, available=False, reason="", digest="", size=0, details={}, modified_at="", addresses=())
    config = config_of(observe_endpoint(make_endpoint(), models={"smollm2": raw}))
    assert config["models"][0]["ready"] is False
    assert config["models"][0]["info"]["modifiedAt"] == "1970-01-01T00:00:00Z"


def test_ignored_fields_are_named() -> None:
    spec: dict[str, Any] = {"models": [{"name": "smollm2"}], "ingress": {"host": "h"}, "management": "Enabled"}
    effective = plan_endpoint(observe_endpoint(make_endpoint(**spec))).status["effective"]
    assert effective["ignored"] == ["spec.ingress", "spec.management"]


def test_long_lists_of_models_are_cut_in_messages() -> None:
    entries = [{"name": f"m{index}"} for index in range(30)]
    status = plan_endpoint(observe_endpoint(make_endpoint(models=entries))).status
    message = next(entry["message"] for entry in status["conditions"] if entry["type"] == "ModelsReady")
    assert "and 20 more" in message
