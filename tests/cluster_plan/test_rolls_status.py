"""An edit is done when its pods have replaced the others: what Ready and Reconciling say of rolls and scaling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support import kube_objects as kube
from tests.support.kube_world import A, B, World, served

from paddock_operator.core.cluster.settings import Images, Settings
from paddock_operator.core.cluster.source_settings import AllowedSource, Sources
from paddock_operator.core.cluster.types import ClusterPlan

SERVES, STARTS = ("True", "Serving"), ("False", "Starting")
ABSENT = ("", "")
NO_NODE = "0/1 nodes are available: 1 Insufficient memory."
EDITS: list[dict[str, Any]] = [
    {"resources": {"memory": "1Ti"}},
    {"placement": {"nodeSelector": {"disk": "fast"}}},
    {"resources": {"cpu": "2"}},
    {"placement": {"tolerations": [{"key": "dedicated", "operator": "Exists"}]}, "replicas": 1},
]


def live(world: World) -> dict[str, Any]:
    return world.one("Deployment")


def report(world: World, replicas: int, updated: int, *, observed: bool = True) -> None:
    """What the Deployment controller says of the pods; `observed`: after it has seen the last change."""
    document = live(world)
    generation = document["metadata"].get("generation", 1)
    seen = generation if observed else generation - 1
    status = {"observedGeneration": seen, "replicas": replicas, "updatedReplicas": updated}
    document["metadata"]["generation"], document["status"] = generation, {**document.get("status", {}), **status}


def step(world: World, seconds: float = 1) -> ClusterPlan:
    """A step in which the API server counts the changes of the Deployment's spec."""
    before = live(world)
    plan = world.step(seconds)
    generation = before["metadata"].get("generation", 1)
    live(world)["metadata"]["generation"] = generation + int(before["spec"] != live(world)["spec"])
    return plan


def settled(replicas: int = 1) -> World:
    world = served(replicas=replicas)
    report(world, replicas, replicas)
    step(world)
    assert world.condition("Ready") == SERVES
    return world


def generations(world: World) -> set[int]:
    entries = world.status()["conditions"]
    return {world.status()["observedGeneration"], *(entry["observedGeneration"] for entry in entries)}


def replaced(world: World, suffix: str) -> None:
    """All runners are of the current template now."""
    world.pods = {name: pod for name, pod in world.pods.items() if "-r" not in name[-3:]}
    world.serve(suffix)
    report(world, 1, 1)


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_an_edit_that_rolls_is_done_when_all_pods_are_new(edit: dict[str, Any]) -> None:
    world = settled()
    world.edit(**edit)
    assert step(world).rolls
    assert generations(world) == {2}
    for pods in ((1, 1, False), (1, 0, True), (2, 1, True)):
        report(world, pods[0], pods[1], observed=pods[2])
        step(world)
        assert (world.condition("Ready"), world.condition("Reconciling")) == (STARTS, ("True", "Starting"))
        assert world.condition("Available") == ("True", "RunnerReady")
    replaced(world, "r9")
    step(world)
    assert (world.condition("Ready"), world.condition("Reconciling")) == (SERVES, ABSENT)
    writes = world.writes
    step(world, 500)
    assert world.writes == writes


def test_memory_that_no_node_has_is_told_until_it_is_corrected() -> None:
    world = settled()
    world.edit(resources={"memory": "1Ti"})
    step(world)
    pod = world.put(kube.unschedulable(world.runner("r1"), NO_NODE, world.clock))
    report(world, 2, 1)
    step(world, 5)
    for kind, verdict in (("Ready", "False"), ("Reconciling", "True")):
        assert world.condition(kind) == (verdict, "Unschedulable")
        assert "Insufficient memory" in world.message(kind)
    assert (world.condition("Available"), world.condition("Stalled")) == (("True", "RunnerReady"), ABSENT)
    writes = world.writes
    step(world, 500)
    assert world.writes == writes
    world.edit(resources=None)
    step(world)
    assert world.condition("Ready")[0] == "False"
    del world.pods[pod["metadata"]["name"]]
    report(world, 1, 1)
    step(world)
    assert (world.condition("Ready"), world.condition("Reconciling")) == (SERVES, ABSENT)


def test_a_quota_that_keeps_the_new_pod_away_is_told() -> None:
    world = settled()
    world.edit(resources={"memory": "8Gi"})
    step(world)
    said = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: small'}
    live(world)["status"]["conditions"] = [said]
    report(world, 1, 0)
    step(world)
    assert world.condition("Ready") == ("False", "FailedCreate")
    assert "exceeded quota: small" in world.message("Reconciling")


def test_a_status_that_was_lost_does_not_end_the_edit() -> None:
    world = settled()
    before = world.status()
    world.edit(resources={"memory": "2Gi"})
    step(world)
    world.model = {**world.model, "status": before}
    report(world, 1, 1, observed=False)
    step(world)
    assert (world.condition("Ready"), world.condition("Reconciling")) == (STARTS, ("True", "Starting"))


def test_a_roll_of_several_runners_ends_with_the_last() -> None:
    world = settled(2)
    world.edit(serving={"slots": 2})
    step(world)
    world.serve("n0")
    report(world, 3, 1)
    step(world)
    assert (world.condition("Ready"), world.condition("Reconciling")) == (STARTS, ("True", "Starting"))
    world.serve("n1")
    report(world, 2, 2)
    step(world)
    assert (world.condition("Ready"), world.condition("Reconciling")) == (SERVES, ABSENT)


@pytest.mark.parametrize("scaled", [False, True])
def test_an_upgrade_of_the_operator_is_no_edit(scaled: bool) -> None:
    world = settled()
    world.settings, world.may_roll = replace(world.settings, images=Images("gateway:2", "runner:2")), False
    writes = world.writes
    assert step(world).requeue_seconds == 5
    assert world.writes == writes
    if scaled:
        world.edit(replicas=2)
    world.may_roll = True
    for _ in range(3):
        step(world)
        report(world, 2, 1)
        assert (world.condition("Ready"), world.condition("Reconciling")) == (SERVES, ABSENT)
    assert "runner:2" in str(live(world)["spec"])


def test_an_upgrade_in_the_middle_of_an_edit_does_not_end_it() -> None:
    world = settled()
    world.edit(resources={"memory": "2Gi"})
    step(world)
    report(world, 2, 1)
    world.settings = replace(world.settings, images=Images("gateway:2", "runner:2"))
    for _ in range(3):
        step(world)
        report(world, 2, 1)
        assert world.condition("Ready") == STARTS
    replaced(world, "r9")
    step(world)
    assert world.condition("Ready") == SERVES


@pytest.mark.parametrize("before", [None, {"resources": {"memory": "2Gi"}}])
def test_scaling_never_touches_ready(before: dict[str, Any] | None) -> None:
    world = settled()
    if before:
        world.edit(**before)
        step(world)
        replaced(world, "r9")
        step(world)
    world.edit(replicas=3)
    step(world)
    for replicas, observed in ((1, False), (3, True)):
        report(world, replicas, replicas, observed=observed)
        step(world)
        assert (world.condition("Ready"), world.condition("Reconciling")) == (SERVES, ABSENT)
    assert len(generations(world)) == 1


def test_a_restart_by_hand_is_no_edit() -> None:
    world = settled()
    report(world, 2, 1)
    step(world)
    assert (world.condition("Ready"), world.condition("Reconciling")) == (SERVES, ABSENT)


def allowed(settings: Settings, host: str) -> Settings:
    return replace(settings, sources=Sources((AllowedSource(host, f"{host}/32"),)))


def failed() -> World:
    world = World()
    world.step()
    message = kube.error_message("ForbiddenAddress", "10.0.0.9 is not public", retryable=False)
    world.put(kube.ended(world.puller(), 0, message))
    finish(world)
    world.step()
    assert world.condition("Stalled") == ("True", "ForbiddenAddress")
    return world


def finish(world: World) -> None:
    job = world.one("Job")
    world.children["Job", job["metadata"]["name"]] = kube.finished(job, world.clock)


@pytest.mark.parametrize("what", ["source", "image"])
def test_a_pull_that_failed_for_good_is_tried_once_more_by_another_puller(what: str) -> None:
    world = failed()
    images = Images("gateway:2", "runner:1")
    world.settings = allowed(world.settings, "10.0.0.9") if what == "source" else replace(world.settings, images=images)
    world.step()
    assert world.many("Job") == []
    world.pods = {}
    world.step()
    assert ("10.0.0.9" if what == "source" else "gateway:2") in str(world.one("Job")["spec"])
    assert (world.condition("Ready"), world.condition("Stalled")) == (("False", "Resolving"), ABSENT)
    message = kube.error_message("NotFound", "no such model", retryable=False)
    world.put(kube.ended(world.puller(), 0, message))
    finish(world)
    for _ in range(3):
        world.step(1000)
        assert (len(world.many("Job")), world.condition("Ready")) == (1, ("False", "NotFound"))


def test_a_suspended_pull_is_not_tried_again() -> None:
    world = failed()
    world.edit(suspend=True)
    world.settings = allowed(world.settings, "10.0.0.9")
    world.step()
    assert len(world.many("Job")) == 1
    world.edit(suspend=False)
    world.step()
    assert world.many("Job") == []


@pytest.mark.parametrize("digest", [A, B])
def test_a_pull_that_succeeded_is_never_repeated_for_another_puller(digest: str) -> None:
    world = served(digest)
    job = world.one("Job")
    world.settings = allowed(world.settings, "10.0.0.9")
    for _ in range(3):
        world.step(1000)
        assert world.one("Job") == job


def test_the_first_pods_are_ready_before_the_deployments_status_says_anything() -> None:
    world = World(model=kube.model_document())
    world.step()
    world.pull(A)
    world.serve("r0")
    live(world)["metadata"]["generation"], live(world)["status"] = 1, {}
    world.step()
    assert world.condition("Ready") == SERVES
