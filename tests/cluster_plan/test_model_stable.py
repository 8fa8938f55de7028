"""Whatever a Model asks for and whatever its pods do: plans come to rest, and on their own result change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import kube_objects as kube
from tests.support.kube_objects import Document
from tests.support.kube_world import A, B, World

from paddock_operator.core.schema import load_crds, status_problems

SCHEMAS = load_crds([yaml.safe_load(path.read_text()) for path in sorted(Path("crds").glob("*.yaml"))])
HEALTH = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,80}[a-z0-9])?", fullmatch=True)
specs = st.fixed_dictionaries(
    {},
    optional={
        "source": st.sampled_from(
            [
                {"ollama": {"name": "a"}},
                {"ollama": {"name": "a", "digest": B}},
                {"ollama": {"name": "a", "secretRef": {"name": "s"}}},
            ]
        ),
        "replicas": st.integers(0, 3),
        "suspend": st.booleans(),
        "system": st.sampled_from(["x", "y"]),
        "serving": st.sampled_from([{"slots": 1}, {"contextLength": 512}]),
        "rollout": st.sampled_from([{"strategy": "Drain"}, {"drainSeconds": 0}, {"rollback": "Disabled"}]),
        "resources": st.sampled_from([{"memory": "Auto"}, {"memory": 0, "cpu": "0.3m"}, {"memory": "9" * 15 + "Ti"}]),
        "placement": st.sampled_from([{}, {"nodeSelector": {"a": "b"}}]),
    },
)
LAST = kube.terminated(1, "no json")


def _next(draw: Any, world: World, pod: Document) -> Document | None:
    """Some next state of a pod, None if it is gone."""
    steps = (
        lambda: kube.is_ready(pod, world.clock),
        lambda: kube.runs(pod, world.clock),
        lambda: kube.waits(pod, "CrashLoopBackOff", restarts=draw(st.integers(0, 5)), last=LAST),
        lambda: kube.waits(pod, "ImagePullBackOff", "no"),
        lambda: kube.unschedulable(pod, "no node", world.clock),
        lambda: kube.ended(pod, 0, kube.result_message(draw(st.sampled_from([A, B])))),
        lambda: kube.ended(pod, 75, kube.error_message("NetworkError", "no", retryable=True)),
        lambda: kube.ended(pod, 0, kube.error_message("NotFound", "no", retryable=False)),
        lambda: kube.evicted(pod),
        lambda: kube.leaving(pod, world.clock),
        lambda: None,
    )
    made: Document | None = draw(st.sampled_from(steps))()
    return made


def _happen(draw: Any, world: World) -> None:
    for pod in list(world.pods.values()):
        state = _next(draw, world, pod)
        if state is None:
            del world.pods[pod["metadata"]["name"]]
        else:
            world.put(state)
    for kind in ("Job", "Deployment"):
        if world.many(kind) and draw(st.booleans()):
            world.put(kube.pod(world.one(kind), f"p{len(world.pods)}{int(world.clock)}", world.clock))


@HEALTH
@given(data=st.data(), name=names)
def test_a_plan_on_its_own_result_changes_nothing(data: st.DataObject, name: str) -> None:
    world = World(model=kube.model_document(name=name))
    for _ in range(data.draw(st.integers(1, 4))):
        world.edit(**data.draw(specs))
        world.may_roll = data.draw(st.booleans())
        _happen(data.draw, world)
        world.step(data.draw(st.sampled_from([1, 60])))
        assert status_problems("Model", world.status(), SCHEMAS) == ()
    for _ in range(4):
        # a verdict moves the pin, the pin the pods, a proof the number of runners
        world.step(0)
    before, status = dict(world.children), world.status()
    first, second = world.plan(), world.step(0)
    assert first == second
    assert (world.children, world.status()) == (before, status)
    assert (second.notes, second.rolls) == ((), False)
    for manifest in second.apply:
        assert len(manifest["metadata"]["name"]) <= 63
        assert manifest["metadata"]["ownerReferences"]


@HEALTH
@given(data=st.data())
def test_a_status_that_somebody_else_wrote_never_stops_the_plan(data: st.DataObject) -> None:
    world = World()
    entry = st.dictionaries(st.sampled_from(["digest", "settingsHash", "generation", "memory"]), st.just(1), max_size=4)
    world.model["status"] = {
        "history": [{**item, "digest": A} for item in data.draw(st.lists(entry, max_size=3))],
        "quarantine": data.draw(st.lists(entry, max_size=3)),
        "resolved": data.draw(st.sampled_from([{}, {"digest": A}, {"sourceHash": "x", "size": 3}])),
        "memory": data.draw(st.sampled_from([{}, {"estimated": {}}, {"estimated": {"digest": A, "total": 5}}])),
        "conditions": [],
    }
    world.step()
    assert world.condition("Ready")[0] == "False"
