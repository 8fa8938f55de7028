"""Caches in mode Node: which nodes get a pull of their own, what it asks for, what the status says, when it goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import kube_objects as kube
from tests.support.kube_objects import Document
from tests.support.kube_world import A, B, World, served
from tests.support.restricted import violations

from paddock_operator.core.cluster.settings import Cache, Settings
from paddock_operator.core.schema import load_crds, status_problems

SCHEMAS = load_crds([yaml.safe_load(path.read_text()) for path in sorted(Path("crds").glob("*.yaml"))])
NODES = Settings(cache=Cache(mode="Node"))
NODE = "paddock.dev/node"
GONE = "waiting for the model to be in the cache"
HTTP = {"http": {"url": "https://h/m.gguf", "sha256": "0" * 64}}


def pinned(world: World) -> dict[str, Document]:
    """Live Jobs that are pinned, by node."""
    jobs = (job for (kind, _), job in world.children.items() if kind == "Job")
    return {job["metadata"]["annotations"][NODE]: job for job in jobs if NODE in job["metadata"]["annotations"]}


def put_on(world: World, pod: Document, node: str) -> Document:
    return world.put({**pod, "spec": {**pod["spec"], "nodeName": node}})


def pulled(first: str = "n1", **spec: Any) -> World:
    """A Model whose digest was found by a pull on a node; no runner is placed yet."""
    world = World(model=kube.model_document(**spec), settings=NODES)
    world.step()
    world.pull()
    put_on(world, next(iter(world.pods.values())), first)
    world.step()
    return world


def finish(world: World, node: str, message: str) -> None:
    """The pinned Job of a node ends with a verdict."""
    job = pinned(world)[node]
    put_on(world, kube.ended(kube.pod(job, "p", world.clock), 0, message), node)
    world.children["Job", job["metadata"]["name"]] = kube.finished(job, world.clock)


def test_the_node_of_the_first_pull_needs_no_other() -> None:
    world = pulled("n1")
    put_on(world, world.runner(), "n1")
    world.step()
    assert pinned(world) == {}
    assert world.condition("Ready") == ("False", "Starting")


def test_a_runner_elsewhere_gets_a_pull_on_its_node() -> None:
    toleration = {"key": "gpu", "operator": "Exists"}
    world = pulled("n1", placement={"nodeSelector": {"a": "b"}, "tolerations": [toleration]})
    runner = world.runner()
    world.step()
    assert pinned(world) == {}, "it is not known yet where the runner goes"
    runner = put_on(world, kube.runs(runner, world.clock), "n2")
    world.step()
    job = pinned(world)["n2"]
    pod = job["spec"]["template"]["spec"]
    request = json.loads(pod["containers"][0]["env"][0]["value"])
    assert request == {"source": {"ollama": {"name": "smollm2:135m", "digest": A}}, "digest": A}
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"] == [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}
    ]
    assert pod["tolerations"] == [toleration]
    assert "nodeSelector" not in pod, "the runner is there: whatever led it there"
    assert violations(pod) == []
    assert job["metadata"]["annotations"]["paddock.dev/pull-key"] == world.status()["resolved"]["pullKey"]
    assert len(world.many("Job")) == 2
    assert world.condition("Ready") == ("False", "Pulling")
    assert world.message("Ready").endswith("are being checked on node n2")
    puller = put_on(world, kube.runs(kube.pod(job, "p", world.clock), world.clock), "n2")
    world.events[puller["metadata"]["uid"]] = {"event": "progress", "completed": 50, "total": 100}
    world.step(10)
    assert "(50 %) on node n2" in world.message("Ready")
    assert world.status()["pull"]["percent"] == 50
    assert world.condition("Cached") == ("Unknown", "Pulling")
    assert status_problems("Model", world.status(), SCHEMAS) == ()
    finish(world, "n2", kube.result_message(A))
    world.step()
    assert world.condition("Ready") == ("False", "Starting")
    put_on(world, kube.is_ready(runner, world.clock), "n2")
    world.step()
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Cached") == ("True", "Verified")
    writes, jobs = world.writes, world.many("Job")
    world.step(5000)
    assert (world.writes, world.many("Job")) == (writes, jobs), "at rest"
    assert len(jobs) == 2, "a finished Job is the record of what its node has"


def test_each_node_has_its_own_job_and_a_ready_runner_needs_none() -> None:
    world = pulled("n1", replicas=3)
    for index, node in enumerate(("n1", "n2", "n3")):
        put_on(world, world.runner(f"r{index}"), node)
    world.step()
    first = pinned(world)
    assert set(first) == {"n2", "n3"}
    assert len({job["metadata"]["name"] for job in first.values()}) == 2
    for index, node in enumerate(("n1", "n2", "n3")):
        put_on(world, kube.is_ready(world.runner(f"r{index}"), world.clock), node)
    world.step()
    assert set(pinned(world)) == {"n2", "n3"}, "what runs may end"
    put_on(world, kube.leaving(world.runner("r2")), "n3")
    world.step()
    assert set(pinned(world)) == {"n2"}, "nobody waits there any more"
    assert world.condition("Ready") == ("True", "Serving")


def test_a_cache_that_was_shared_is_not_pulled_again() -> None:
    world = served()
    for name, pod in world.pods.items():
        put_on(world, pod, "n7" if name.endswith("r0") else "n1")
    before = world.status()
    world.settings = NODES
    world.step(100)
    assert pinned(world) == {}
    assert world.status() == before


FAILURES = [
    ("NoSpace", True, ("", "")),
    ("DigestMismatch", False, ("True", "DigestMismatch")),
]


@pytest.mark.parametrize(("reason", "retryable", "stalled"), FAILURES)
def test_a_node_that_cannot_have_the_bytes_is_named(reason: str, retryable: bool, stalled: tuple[str, str]) -> None:
    world = pulled("n1")
    put_on(world, world.runner(), "n2")
    world.step()
    message = kube.error_message(reason, "it failed", retryable=retryable)
    puller = kube.pod(pinned(world)["n2"], "p", world.clock)
    put_on(world, kube.ended(puller, 75 if retryable else 0, message), "n2")
    world.step()
    assert world.condition("Ready") == ("False", reason)
    assert world.message("Ready").startswith("node n2: it failed")
    assert world.condition("Stalled") == stalled
    assert world.condition("Resolved") == ("True", "Pinned")
    assert "again failed" not in world.message("Resolved")
    assert status_problems("Model", world.status(), SCHEMAS) == ()
    writes = world.writes
    world.step(400)
    assert world.writes == writes
    assert set(pinned(world)) == {"n2"}
    world.edit(source=HTTP)
    world.step()
    assert pinned(world) == {}, "it belongs to another source"


def test_a_second_runner_in_trouble_does_not_make_the_first_unready() -> None:
    world = pulled("n1", replicas=2)
    put_on(world, kube.is_ready(world.runner("r0"), world.clock), "n1")
    put_on(world, world.runner("r1"), "n2")
    world.step()
    finish(world, "n2", kube.error_message("NoSpace", "it is full", retryable=False))
    world.step()
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Stalled") == ("", "")
    assert world.message("Available").startswith("1 of 2 runners are ready; NoSpace: node n2: it is full")


def test_bytes_that_left_a_node_are_brought_there_again() -> None:
    world = pulled("n1")
    runner = put_on(world, kube.runs(world.runner(), world.clock), "n1")
    world.events[runner["metadata"]["uid"]] = {"event": "state", "state": "starting", "ready": False, "reason": GONE}
    world.step(30)
    assert set(pinned(world)) == {"n1"}, "the first pull was there, but the runner looked in vain"
    assert world.many("Deployment"), "runners stay: they tell where bytes are missing"
    finish(world, "n1", kube.result_message(A))
    old = pinned(world)["n1"]["metadata"]["creationTimestamp"]
    world.step(299)
    assert set(pinned(world)) == {"n1"}
    world.step()
    world.step()
    assert pinned(world)["n1"]["metadata"]["creationTimestamp"] > old
    assert len(world.many("Job")) == 2


@pytest.mark.parametrize("change", [{"suspend": True}, {"adapters": [{"name": "a", "source": HTTP}]}])
def test_nothing_is_pulled_for_a_model_that_is_off(change: dict[str, Any]) -> None:
    world = pulled("n1")
    put_on(world, world.runner(), "n2")
    world.step()
    assert set(pinned(world)) == {"n2"}
    world.edit(**change)
    world.step()
    assert pinned(world) == {}
    world.edit(**dict.fromkeys(change))
    world.step()
    assert set(pinned(world)) == {"n2"}


def test_a_new_digest_goes_to_the_nodes_of_the_old_one() -> None:
    world = pulled("n1")
    put_on(world, kube.is_ready(world.runner(), world.clock), "n2")
    world.step()
    world.edit(source={"ollama": {"name": "other"}})
    world.step()
    assert pinned(world) == {}
    first = world.one("Job")["spec"]["template"]["spec"]["affinity"]
    (near,) = first["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert near["podAffinityTerm"]["labelSelector"]["matchLabels"]["paddock.dev/component"] == "runner"
    world.pull(B)
    put_on(world, next(pod for name, pod in world.pods.items() if name.endswith("-p")), "n3")
    world.step()
    job = pinned(world)["n2"]
    assert json.loads(job["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"])["digest"] == B


def test_a_changed_pod_makes_another_job_unless_bytes_flow() -> None:
    world = pulled("n1")
    put_on(world, world.runner(), "n2")
    world.step()
    job = pinned(world)["n2"]
    busy = put_on(world, kube.runs(kube.pod(job, "p", world.clock), world.clock), "n2")
    world.settings = replace(NODES, images=replace(NODES.images, gateway="gateway:2"))
    world.step()
    assert pinned(world)["n2"] == job
    world.put(kube.waits(busy, "ContainerCreating"))
    world.step()
    world.step()
    assert pinned(world)["n2"]["spec"]["template"]["spec"]["containers"][0]["image"] == "gateway:2"


def test_a_shared_cache_has_one_pull() -> None:
    world = pulled("n1")
    put_on(world, world.runner(), "n2")
    world.step()
    world.settings = Settings()
    world.step()
    assert pinned(world) == {}
    assert "affinity" not in World().step().apply[0]["spec"]["template"]["spec"]
