"""A Model on a cluster from nothing to serving, changes of what serves, and a restart that writes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import kube_objects as kube
from tests.support.kube_world import A, B, World, served

from paddock_operator.core.cluster.settings import Images
from paddock_operator.core.identity import canonical_json, config_hash
from paddock_operator.core.schema import load_crds, status_problems

CRDS = [yaml.safe_load(path.read_text()) for path in sorted(Path("crds").glob("*.yaml"))]
SCHEMAS = load_crds(CRDS)
READY = ("True", "Serving")


def sound(world: World) -> bool:
    return status_problems("Model", world.status(), SCHEMAS) == ()


def test_the_straight_path_writes_three_statuses() -> None:
    world = World()
    plan = world.step()
    assert world.condition("Ready") == ("False", "Resolving")
    assert world.many("Deployment") == world.many("ConfigMap") == []
    assert plan.rolls is False
    job = world.one("Job")
    request = {item["name"]: item["value"] for item in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert json.loads(request["PADDOCK_PULL_REQUEST"]) == {
        "source": {"ollama": {"name": "smollm2:135m"}},
        "digest": None,
    }
    puller = world.puller()
    world.step()
    world.put(kube.runs(puller, world.clock))
    assert world.step().requeue_seconds == 10
    assert (world.writes, world.condition("Ready")) == (1, ("False", "Resolving"))
    world.put(kube.ended(puller, 0, kube.result_message(A)))
    world.step()
    assert world.condition("Ready") == ("False", "Starting")
    assert (world.condition("Resolved"), world.condition("Cached")) == (("True", "Pinned"), ("True", "Verified"))
    world.children["Job", job["metadata"]["name"]] = kube.finished(job, world.clock)
    world.step()
    runner = world.runner()
    world.step()
    world.put(kube.waits(runner, "ContainerCreating"))
    world.step()
    world.put(kube.runs(runner, world.clock))
    assert world.step().requeue_seconds == 3
    world.put(kube.is_ready(runner, world.clock))
    plan = world.step()
    assert (world.condition("Ready"), world.writes, plan.requeue_seconds) == (READY, 3, None)
    assert (world.status()["replicas"], world.status()["readyReplicas"]) == (1, 1)
    assert world.status()["selector"].endswith(",paddock.dev/component=runner")
    assert world.condition("Reconciling") == world.condition("Stalled") == ("", "")
    assert world.condition("Fits") == ("Unknown", "Unknown")
    assert sound(world)


@pytest.mark.parametrize("mode", ["Embed", "Rerank"])
def test_models_for_vectors_and_scores_are_served(mode: str) -> None:
    world = served(serving={"mode": mode})
    engine = json.loads(world.one("ConfigMap")["data"]["serve.json"])["engine"]
    assert (engine["mode"], engine["slots"], engine["cells"]) == (mode.lower(), 32, engine["contextLength"])
    assert world.condition("Ready") == READY


def test_a_restart_of_the_operator_writes_nothing() -> None:
    world = served()
    world.clock += 100000
    plan = world.plan()
    assert plan.status == world.status()
    assert (plan.nudge, plan.rolls, plan.notes, plan.requeue_seconds) == ((), False, (), None)
    for manifest in plan.apply:
        assert kube.covers(world.children[manifest["kind"], manifest["metadata"]["name"]], manifest)
    names = {(item["kind"], item["metadata"]["name"]) for item in plan.apply} | set(plan.keep)
    assert names == set(world.children)


@pytest.mark.parametrize("also", ["job", "pods"])
def test_a_pull_that_is_gone_is_not_repeated(also: str) -> None:
    world = served()
    world.pods = {name: pod for name, pod in world.pods.items() if "puller" not in str(pod["metadata"]["labels"])}
    if also == "job":
        del world.children["Job", world.one("Job")["metadata"]["name"]]
    before = world.status()
    for _ in range(3):
        world.step(60)
    assert world.status() == before
    assert len(world.many("Job")) == (also == "pods")


@pytest.mark.parametrize("reason", ["waiting for the model to be in the cache", "DigestMismatch: blob abc differs"])
def test_bytes_that_left_the_cache_are_pulled_again(reason: str) -> None:
    world = served()
    runner = world.put(kube.runs(next(pod for name, pod in world.pods.items() if name.endswith("r0")), world.clock))
    world.events[runner["metadata"]["uid"]] = {"event": "state", "state": "starting", "ready": False, "reason": reason}
    old = world.one("Job")["metadata"]["creationTimestamp"]
    world.step(20)
    assert world.condition("Ready") == ("False", "Starting"), "it may be busy with hashing"
    world.step(300)
    assert world.many("Job") == []
    assert world.many("Deployment")
    assert world.message("Ready").endswith(f"the runner says: {reason}")
    world.step()
    assert world.one("Job")["metadata"]["creationTimestamp"] > old
    assert world.condition("Ready") == ("False", "Verifying")
    request = world.one("Job")["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"]
    assert json.loads(request)["digest"] == A
    world.events.clear()
    world.pods = {}
    world.pull()
    world.serve()
    world.step()
    assert world.condition("Ready") == READY


def test_bytes_of_a_model_that_was_never_ready_are_pulled_again() -> None:
    """Its Deployment stays while it waits: a runner that went would take the news with it, again and again."""
    world = World()
    world.step()
    world.pull()
    pod = world.put(kube.runs(world.runner(), world.clock))
    old = world.one("Job")["metadata"]["creationTimestamp"]
    reason = "waiting for the model to be in the cache"
    world.events[pod["metadata"]["uid"]] = {"event": "state", "state": "starting", "ready": False, "reason": reason}
    for _ in range(2):
        world.step(20)
        assert world.one("Job")["metadata"]["creationTimestamp"] == old, "the pull may just have ended"
        assert world.many("Deployment")
    assert world.condition("Cached")[0] != "True"
    for _ in range(2):
        world.step(20)
        assert world.many("Deployment")
    assert world.one("Job")["metadata"]["creationTimestamp"] > old


def test_a_hot_change_is_confirmed_by_the_log() -> None:
    world = served()
    deployment, config = world.one("Deployment"), world.one("ConfigMap")
    (pod,) = [name for name in world.pods if name.endswith("r0")]
    world.edit(system="be brief")
    plan = world.step(10)
    hashed = world.one("ConfigMap")["metadata"]["annotations"]["paddock.dev/config-hash"]
    assert world.one("Deployment") == deployment
    assert json.loads(world.one("ConfigMap")["data"]["serve.json"])["system"] == "be brief"
    assert (plan.nudge, plan.requeue_seconds) == (((pod, f"{hashed}@{kube.at(world.clock)}"),), 1)
    assert hashed != config["metadata"]["annotations"]["paddock.dev/config-hash"]
    assert world.condition("Ready") == ("False", "Configuring")
    plan = world.step()
    assert (plan.nudge, plan.requeue_seconds) == ((), 1)
    world.events[world.pods[pod]["metadata"]["uid"]] = {"event": "state", "config": "other", "ready": True}
    assert world.step().nudge == ()
    assert world.condition("Ready") == ("False", "Configuring")
    # its kubelet had not heard of the new content yet
    assert world.step(10).nudge == ((pod, f"{hashed}@{kube.at(world.clock)}"),)
    assert world.step().nudge == ()
    state = {"event": "state", "state": "ready", "config": hashed, "ready": True, "memory": {"resident": 5, "kv": 2}}
    world.events[world.pods[pod]["metadata"]["uid"]] = state
    plan = world.step()
    assert (world.condition("Ready"), plan.requeue_seconds) == (READY, None)
    assert plan.nudge == ((pod, f"{hashed}@in-force"),)
    assert world.status()["memory"]["measured"]["resident"] == 16 << 20
    # an operator that restarts may not find that line any more: what was told once is noted on the pod
    measured = world.status()["memory"]["measured"]
    world.events.clear()
    plan = world.step(60)
    assert (world.condition("Ready"), world.status()["memory"]["measured"]) == (READY, measured)
    assert (plan.nudge, plan.requeue_seconds) == ((), None)


def test_credentials_of_a_new_endpoint_reach_old_and_new_pods() -> None:
    world = served()
    world.edit(serving={"slots": 2})
    world.step()
    assert len(world.many("ConfigMap")) == 2
    world.credentials = (*world.credentials, ("default/other", "e" * 64))
    plan = world.step(5)
    for name in world.many("ConfigMap"):
        config = json.loads(world.children["ConfigMap", name]["data"]["serve.json"])
        assert [entry["endpoint"] for entry in config["credentials"]] == ["default/main", "default/other"]
        assert canonical_json(config).decode() == world.children["ConfigMap", name]["data"]["serve.json"]
    assert [name[-2:] for name, _ in plan.nudge] == ["r0"]
    engines = [json.loads(world.children["ConfigMap", name]["data"]["serve.json"])["engine"]["slots"]
               for name in world.many("ConfigMap")]  # fmt: skip
    assert sorted(engines) == [2, 4]


@pytest.mark.parametrize(
    ("rollout", "expected"),
    [({}, (1, 0)), ({"strategy": "Surge"}, (1, 0)), ({"strategy": "Drain"}, (0, 1))],
    ids=["auto", "surge", "drain"],
)
def test_a_new_digest_rolls(rollout: dict[str, Any], expected: tuple[int, int]) -> None:
    world = served(rollout=rollout)
    rolling = world.one("Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert (rolling["maxSurge"], rolling["maxUnavailable"]) == expected
    old = world.many("ConfigMap")
    world.edit(source={"ollama": {"name": "smollm2:135m", "digest": B}})
    plan = world.step()
    assert (plan.rolls, world.condition("Ready")) == (False, ("False", "Pulling"))
    assert world.condition("Available") == ("True", "RunnerReady")
    assert len(world.many("Job")) == 1, "the superseded Job is pruned"
    world.pull(B)
    assert world.condition("Ready") == ("False", "Starting")
    assert world.condition("Reconciling") == ("True", "Starting")
    assert set(world.many("ConfigMap")) > set(old)
    (before,) = [name for name in world.pods if name.endswith("r0")]
    if expected == (0, 1):
        world.put(kube.leaving(world.pods[before], world.clock))
        world.step()
        assert world.condition("Available") == ("False", "RunnerNotReady")
        assert len(world.many("ConfigMap")) == 2, "a pod that drains still reads its configuration"
    world.serve("new")
    world.step()
    assert world.condition("Ready") == READY
    assert world.status()["resolved"]["digest"] == B
    del world.pods[before]
    world.step()
    assert len(world.many("ConfigMap")) == 1
    assert [entry["digest"] for entry in world.status()["history"]] == [B, A]
    assert sound(world)


def test_a_digest_that_cannot_load_returns_to_the_last_good_one() -> None:
    world = served()
    template = world.one("Deployment")["spec"]["template"]
    world.edit(source={"ollama": {"name": "other"}})
    world.step()
    world.pull(B, contextLength=512, blockCount=60)
    assert world.one("Deployment")["spec"]["template"] != template
    bad = world.put(kube.runs(world.runner("bad"), world.clock))
    world.step(20)
    for count in (1, 2, 3):
        state = {"event": "state", "state": "loading", "ready": False, "reason": "bad tensor", "restarts": count}
        world.events[bad["metadata"]["uid"]] = state
        world.step(20)
    assert world.condition("Ready") == ("False", "RolledBack")
    assert world.condition("Stalled") == ("True", "RolledBack")
    assert world.condition("Available") == ("True", "RunnerReady")
    assert world.status()["quarantine"][0]["message"] == "bad tensor"
    assert world.one("Deployment")["spec"]["template"] == template, "the old ReplicaSet serves on without a restart"
    del world.pods[bad["metadata"]["name"]]
    before = world.writes
    for _ in range(3):
        assert world.step(60).requeue_seconds is None
    assert world.writes - before <= 1
    assert sound(world)
    world.edit(source={"ollama": {"name": "smollm2:135m"}})
    world.step()
    world.pull(A)
    assert world.condition("Ready") == READY


def test_crashing_settings_are_not_blamed_on_the_digest() -> None:
    world = served()
    world.edit(serving={"contextLength": 1 << 20})
    world.step()
    last = kube.terminated(137, reason="OOMKilled")
    runner = world.put(kube.waits(world.runner("x"), "CrashLoopBackOff", restarts=7, last=last))
    world.step(5)
    assert world.condition("Ready") == ("False", "OOMKilled")
    assert world.condition("Stalled") == ("True", "CrashLooping")
    assert "raise spec.resources.memory" in world.message("Ready")
    assert world.one("Deployment")["spec"]["template"]["metadata"]["labels"] == {**runner["metadata"]["labels"]}
    writes = world.writes
    for count in (7, 7, 7):
        world.put(kube.runs(runner, world.clock, restarts=count, last=last))
        world.step(100)
        world.put(kube.waits(runner, "CrashLoopBackOff", restarts=count, last=last))
        world.step(100)
    assert world.writes == writes, "retries are not worth a write"


@pytest.mark.parametrize("replicas", [1, 3])
def test_replicas(replicas: int) -> None:
    world = served(replicas=replicas)
    assert world.one("Deployment")["spec"]["replicas"] == replicas
    assert world.many("PodDisruptionBudget") == (world.many("Deployment") if replicas > 1 else [])
    assert world.status()["readyReplicas"] == replicas
    assert world.condition("Ready") == READY
    template = world.one("Deployment")["spec"]["template"]
    world.edit(replicas=4 - replicas)
    assert world.step().rolls is False
    assert world.one("Deployment")["spec"]["template"] == template, "a number of runners restarts none"
    assert bool(world.many("PodDisruptionBudget")) == (replicas == 1)
    assert (world.condition("Ready"), world.condition("Reconciling")) == (READY, ("", ""))


def test_zero_replicas_prove_once() -> None:
    world = World(model=kube.model_document(replicas=0))
    world.step()
    assert world.many("Deployment") == []
    world.pull()
    assert world.one("Deployment")["spec"]["replicas"] == 1
    runner = world.serve()
    world.step()
    world.step()
    assert world.condition("Ready") == ("True", "Idle")
    assert world.one("Deployment")["spec"]["replicas"] == 0
    del world.pods[runner["metadata"]["name"]]
    plan = world.step()
    assert world.condition("Available") == ("False", "NoRunner")
    assert plan.requeue_seconds is None
    world.edit(replicas=2)
    assert world.step().rolls is False
    assert world.one("Deployment")["spec"]["replicas"] == 2


@pytest.mark.parametrize(("scaling", "wanted"), [({"maxReplicas": 3}, 1), ({"minReplicas": 2, "maxReplicas": 3}, 2),
                                                 ({"minReplicas": 0, "maxReplicas": 3}, 1)])  # fmt: skip
def test_scaling_holds_its_least_number(scaling: dict[str, int], wanted: int) -> None:
    world = World(model=kube.model_document(scaling=scaling))
    world.step()
    world.pull()
    assert world.one("Deployment")["spec"]["replicas"] == wanted


def test_suspend_ends_the_pull_and_the_runners() -> None:
    world = World(model=kube.model_document(suspend=True))
    world.step()
    assert world.many("Job") == world.many("Deployment") == []
    assert world.condition("Ready") == ("False", "Suspended")
    world.edit(suspend=None)
    world.step()
    world.edit(suspend=True)
    world.step()
    assert world.many("Job") == [], "a pull that runs ends"
    world.edit(suspend=None)
    world.step()
    world.pull()
    world.serve()
    world.step()
    world.edit(suspend=True)
    world.step()
    assert world.one("Deployment")["spec"]["replicas"] == 0
    assert len(world.many("Job")) == 1, "a finished one is kept"
    assert world.condition("Reconciling") == world.condition("Stalled") == ("", "")
    world.pods = {}
    world.step()
    world.edit(suspend=None)
    world.step()
    assert world.one("Deployment")["spec"]["replicas"] == 1
    assert len(world.many("Job")) == 1


def test_an_operator_upgrade_waits_for_its_turn() -> None:
    world = served()
    before = world.one("Deployment")
    world.settings = replace(world.settings, images=Images(gateway="gateway:2", runner="runner:2"))
    world.may_roll = False
    plan = world.step()
    assert ("Deployment", before["metadata"]["name"]) in plan.keep
    assert (world.one("Deployment"), plan.requeue_seconds, plan.rolls) == (before, 5, False)
    assert world.condition("Ready") == READY
    world.edit(serving={"slots": 1})
    assert world.plan().rolls is True, "what the user asked for is never held back"
    world.edit(serving=None)
    world.may_roll = True
    assert world.step().rolls is True
    assert world.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"] == "runner:2"
    assert world.condition("Ready") == READY, "the same revision serves on"
    assert world.step().rolls is False


def test_a_tracked_name_is_resolved_again_by_a_job_of_its_own() -> None:
    world = served(updatePolicy={"type": "Track", "interval": "1h"})
    first = world.many("Job")
    plan = world.step()
    assert plan.requeue_seconds is not None
    assert 3000 < plan.requeue_seconds <= 3600
    world.step(3700)
    assert len(world.many("Job")) == 1
    assert world.many("Job") != first
    assert world.condition("Ready") == READY
    world.pull(B)
    assert world.status()["resolved"]["digest"] == B
    assert world.condition("Ready") == ("False", "Starting")


def test_what_a_pod_serves_is_what_its_config_map_says() -> None:
    world = served()
    config = json.loads(world.one("ConfigMap")["data"]["serve.json"])
    assert config["models"] == "/models"
    assert config["names"] == ["smollm2", "smollm2:135m"]
    assert world.one("ConfigMap")["metadata"]["annotations"]["paddock.dev/config-hash"] == config_hash(config)


@pytest.mark.parametrize("data", [{}, {"serve.json": "{"}, {"serve.json": "[]"}, {"serve.json": '{"digest":"x"}'}])
def test_a_spoilt_config_map_of_an_old_revision_is_left_alone(data: dict[str, str]) -> None:
    world = served()
    (name,) = world.many("ConfigMap")
    world.edit(serving={"slots": 1})
    world.children["ConfigMap", name]["data"] = data
    plan = world.step()
    assert ("ConfigMap", name) in plan.keep
    assert world.condition("Ready") == ("False", "Starting")
