"""An object that the API server does not take: what the conditions say, and that it goes by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import endpoint_world, kube_world
from tests.support import kube_objects as kube

from paddock_operator.core.cluster.endpoint import plan_cluster_endpoint
from paddock_operator.core.cluster.model import plan_cluster_model
from paddock_operator.core.cluster.types import ClusterPlan
from paddock_operator.core.conditions import find
from paddock_operator.core.schema import load_crds, status_problems

SCHEMAS = load_crds([yaml.safe_load(path.read_text()) for path in sorted(Path("crds").glob("*.yaml"))])
WORDS = 'the API server refuses Job a-1: jobs.batch "a-1" is forbidden:\nexceeded quota'
ONE_LINE = WORDS.replace("\n", " ")
HELD_BACK: dict[str, Any] = {"adapters": [{"name": "a", "source": {"oci": {"reference": "r/a"}}}]}


def verdict(plan: ClusterPlan, kind: str = "Ready") -> tuple[str, str]:
    entry = find(plan.status or {}, kind)
    return entry.get("status", ""), entry.get("reason", "")


def model(world: kube_world.World) -> ClusterPlan:
    return plan_cluster_model(replace(world.see(), refused=WORDS))


def endpoint(world: endpoint_world.World, words: str = WORDS) -> ClusterPlan:
    return plan_cluster_endpoint(replace(world.see(), refused=words))


MODELS = [
    # what the Model is, Ready, Reconciling, Stalled
    (kube_world.World(), "Refused", ("True", "Refused"), ("", "")),
    (kube_world.served(), "Refused", ("", ""), ("", "")),
    (kube_world.World(model=kube.model_document(suspend=True)), "Suspended", ("", ""), ("", "")),
    (kube_world.World(model=kube.model_document(**HELD_BACK)), "Unsupported", ("", ""), ("True", "Unsupported")),
]


@pytest.mark.parametrize(
    ("world", "reason", "reconciling", "stalled"), MODELS, ids=["new", "serving", "suspended", "unsupported"]
)
def test_a_model(world: kube_world.World, reason: str, reconciling: tuple[str, str], stalled: tuple[str, str]) -> None:
    plan = model(world)
    assert verdict(plan) == ("False", reason)
    assert verdict(plan, "Reconciling") == reconciling
    assert verdict(plan, "Stalled") == stalled
    assert status_problems("Model", plan.status or {}, SCHEMAS) == ()
    assert plan.apply == world.plan().apply, "it is tried again as it is"


def test_a_model_that_serves_stays_available_and_is_ready_again() -> None:
    world = kube_world.served()
    plan = model(world)
    assert verdict(plan, "Available") == ("True", "RunnerReady")
    assert find(plan.status or {}, "Ready")["message"] == ONE_LINE
    assert [note.reason for note in plan.notes] == ["Refused"]
    world.model = {**world.model, "status": plan.status}
    assert model(world).status == plan.status, "each attempt tells the same"
    assert verdict(world.plan()) == ("True", "Serving")


def test_an_endpoint_and_its_way_back() -> None:
    world = endpoint_world.serving()
    plan = endpoint(world)
    assert verdict(plan) == ("False", "Refused")
    assert find(plan.status or {}, "Ready")["message"] == ONE_LINE
    assert verdict(plan, "Stalled") == verdict(plan, "Reconciling") == ("", "")
    assert (plan.status or {})["readyReplicas"] == 2
    assert status_problems("Endpoint", plan.status or {}, SCHEMAS) == ()
    world.endpoint = {**world.endpoint, "status": plan.status}
    assert verdict(world.plan()) == ("True", "GatewayReady")
    world.edit(replicas=3)
    assert verdict(endpoint(world), "Reconciling") == ("True", "Refused")


def test_what_an_edit_must_cure_comes_first() -> None:
    assert verdict(endpoint(endpoint_world.serving(limits={"tokensPerMinute": 1}))) == ("False", "Unsupported")
    world = endpoint_world.serving()
    world.keys_problem = "gone"
    assert verdict(endpoint(world)) == ("False", "Forbidden")


def test_long_words_are_cut() -> None:
    found = endpoint(endpoint_world.serving(), "x" * 5000)
    assert len(find(found.status or {}, "Ready")["message"]) == 1024
