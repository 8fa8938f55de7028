"""Argo CD's health of both kinds, by the scripts of docs/gitops, on statuses that the plans made.

Run with Lua 5.1, the version that Argo CD speaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.plan.world import (
    T0,
    T1,
    Machine,
    crashed,
    make_endpoint,
    make_model,
    observe,
    observe_endpoint,
    snapshot,
)
from tests.support.argocd import health

from paddock_operator.core.conditions import merge
from paddock_operator.core.identity import config_hash
from paddock_operator.core.observed import GatewayObserved
from paddock_operator.core.plan import plan_endpoint, plan_model

Object = dict[str, Any]


def live(status: Mapping[str, Any], generation: int = 1, **metadata: Any) -> Object:
    return {"metadata": {"name": "x", "generation": generation, **metadata}, "status": dict(status)}


def test_nothing_yet_is_progressing() -> None:
    for kind in ("model", "endpoint"):
        assert health(kind, {"metadata": {"name": "x", "generation": 1}})[0] == "Progressing"
        assert health(kind, live({}))[0] == "Progressing"
        assert health(kind, live({"observedGeneration": 1}))[0] == "Progressing"


# Models


def test_a_model_from_its_first_moment_to_service() -> None:
    machine = Machine(make_model())
    machine.step()
    assert health("model", live(machine.status))[0] == "Progressing"
    machine.settle()
    status, message = health("model", live(machine.status))
    assert status == "Healthy"
    assert message.startswith("Serving: ")


def test_an_edit_is_progressing_until_it_is_done() -> None:
    machine = Machine(make_model())
    machine.settle()
    assert health("model", live(machine.status, generation=2))[0] == "Progressing"


def test_a_source_that_only_an_edit_cures_is_degraded() -> None:
    machine = Machine(make_model(), error=("NotGGUF", False))
    machine.settle()
    assert health("model", live(machine.status)) == ("Degraded", "NotGGUF: about NotGGUF")


def test_a_network_error_is_progressing() -> None:
    machine = Machine(make_model(), error=("NetworkError", True))
    machine.settle()
    assert health("model", live(machine.status))[0] == "Progressing"


def test_a_digest_that_never_loads_is_degraded() -> None:
    machine = Machine(make_model(), broken={"sha256:" + "a" * 64})
    machine.settle()
    assert health("model", live(machine.status))[0] == "Degraded"


def test_a_proven_model_whose_runner_crashed_is_progressing() -> None:
    machine = Machine(make_model())
    machine.settle()
    machine.runner = replace(crashed(1), digest="sha256:" + "a" * 64)
    plan = plan_model(observe(machine.model, status=machine.status, pull=machine.pull, runner=machine.runner, now=T1))
    assert health("model", live(plan.status))[0] == "Progressing"


def test_a_suspended_model() -> None:
    machine = Machine(make_model(suspend=True))
    machine.settle()
    status, message = health("model", live(machine.status))
    assert status == "Suspended"
    assert message.startswith("Suspended: spec.suspend is true")


def test_zero_wanted_is_healthy() -> None:
    machine = Machine(make_model())
    machine.settle()
    machine.model = make_model(generation=2, replicas=0)
    machine.settle()
    status, message = health("model", live(machine.status, generation=2))
    assert status == "Healthy"
    assert message.startswith("Idle: ")


@pytest.mark.parametrize("kind", ["model", "endpoint"])
def test_deletion_is_progressing(kind: str) -> None:
    machine = Machine(make_model())
    machine.settle()
    assert health(kind, live(machine.status, deletionTimestamp=T0)) == ("Progressing", "it is being deleted")


# Endpoints


def endpoint_status(gateway: GatewayObserved | None = None, **seen: Any) -> Mapping[str, Any]:
    """The status after the gateway took up its configuration, or with another gateway."""
    endpoint = seen.pop("endpoint", make_endpoint())
    plan = plan_endpoint(observe_endpoint(endpoint, **seen))
    if gateway is None and plan.gateway is not None:
        gateway = GatewayObserved("ready", config_hash(plan.gateway))
    return plan_endpoint(observe_endpoint(endpoint, gateway=gateway or GatewayObserved(), **seen)).status


def test_a_gateway_that_serves_is_healthy() -> None:
    status, message = health("endpoint", live(endpoint_status()))
    assert status == "Healthy"
    assert message.startswith("GatewayReady: ")


def test_models_that_are_not_ready_are_named_only() -> None:
    waiting = snapshot(ready=False, available=False, reason="Pulling")
    status, message = health("endpoint", live(endpoint_status(models={"smollm2": waiting})))
    assert status == "Healthy"
    assert message.endswith("; 1 of 1 Models are not ready: smollm2 (Pulling)")


@pytest.mark.parametrize(
    "gateway", [GatewayObserved(), GatewayObserved("ready", "0" * 64), GatewayObserved("crashed", restarts=3)]
)
def test_a_gateway_that_does_not_serve_yet_is_progressing(gateway: GatewayObserved) -> None:
    assert health("endpoint", live(endpoint_status(gateway)))[0] == "Progressing"


def test_no_gateway_wanted_is_suspended() -> None:
    endpoint = make_endpoint(models=[{"name": "smollm2"}], replicas=0)
    assert health("endpoint", live(endpoint_status(endpoint=endpoint)))[0] == "Suspended"


def test_a_stalled_endpoint_is_degraded() -> None:
    planned = [{"type": "Stalled", "status": "True", "reason": "X", "message": "edit it"}]
    status = {"observedGeneration": 1, "conditions": merge({}, planned, T0)}
    assert health("endpoint", live(status)) == ("Degraded", "X: edit it")


def test_both_scripts_say_the_same_of_what_both_kinds_have() -> None:
    """The statuses of one kind through the script of the other: only the words for `on purpose` differ."""
    machine = Machine(make_model())
    for _ in range(4):
        machine.step()
        assert health("model", live(machine.status)) == health("endpoint", live(machine.status))
