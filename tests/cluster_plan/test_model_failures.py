"""Every way in which a pod of a Model does not run: the reason of the closed list, the words, and that it heals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import kube_objects as kube
from tests.support.kube_objects import Document
from tests.support.kube_world import A, B, World, served

from paddock_operator.core.conditions import REASONS
from paddock_operator.core.schema import load_crds, status_problems

SCHEMAS = load_crds([yaml.safe_load(path.read_text()) for path in sorted(Path("crds").glob("*.yaml"))])
NO_NODE = (
    "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available: 1 No preemption victims."
)
UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
PULL_ERROR = 'failed to pull and unpack image "gateway:1": not found'

Break = Callable[[World, Document], Document]


def _unbound(world: World, pod: Document) -> Document:
    world.claim = kube.claim("Pending", storageClassName="fast")
    return kube.unschedulable(pod, UNBOUND, world.clock)


def _warned(reason: str, message: str) -> Break:
    def act(world: World, pod: Document) -> Document:
        world.warnings[pod["metadata"]["uid"]] = (reason, message)
        return kube.waits(pod, "ContainerCreating")

    return act


def _waits(reason: str, message: str) -> Break:
    return lambda _, pod: kube.waits(pod, reason, message)


COMMON: list[tuple[str, Break, str, str]] = [
    (
        "no node", lambda world, pod: kube.unschedulable(pod, NO_NODE, world.clock), "Unschedulable",
        "1 Insufficient memory; make room",
    ),
    ("claim not bound", _unbound, "CacheUnbound", "(100Gi of fast) is Pending; provide that StorageClass"),
    ("image error", _waits("ErrImagePull", PULL_ERROR), "ImagePullBackOff", PULL_ERROR),
    (
        "image back-off", _waits("ImagePullBackOff", f'Back-off pulling image "x": ErrImagePull: {PULL_ERROR}'),
        "ImagePullBackOff", PULL_ERROR,
    ),
    ("image name", _waits("InvalidImageName", "bad"), "ImagePullBackOff", "is not the name of an image"),
    (
        "config error", _waits("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
        "CreateContainerConfigError", "will run as root; it is tried again",
    ),
    (
        "mount", _warned("FailedMount", 'MountVolume.SetUp failed for volume "config" : configmap "c" not found'),
        "FailedMount", 'configmap "c" not found',
    ),
    ("attach", _warned("FailedAttachVolume", "Multi-Attach error"), "FailedMount", "Multi-Attach error"),
    ("sandbox", _warned("FailedCreatePodSandBox", "no CNI"), "FailedCreate", "no CNI"),
    ("evicted", lambda _, pod: kube.evicted(pod), "Evicted", "(Evicted): The node was low on resource: memory."),
]  # fmt: skip
IDS = [row[0] for row in COMMON]


def _is_sound(world: World) -> None:
    assert status_problems("Model", world.status(), SCHEMAS) == ()
    for entry in world.status()["conditions"]:
        assert entry["reason"] in REASONS[entry["type"]]


@pytest.mark.parametrize(("act", "reason", "words"), [row[1:] for row in COMMON], ids=IDS)
def test_pullers(act: Break, reason: str, words: str) -> None:
    world = World()
    world.step()
    puller = world.puller()
    world.put(act(world, puller))
    world.step(4)
    for kind in ("Ready", "Resolved", "Cached"):
        assert world.condition(kind) == ("False", reason)
        assert words in world.message(kind)
    assert world.condition("Reconciling") == ("True", reason)
    assert world.condition("Stalled") == ("", "")
    _is_sound(world)
    writes = world.writes
    assert world.step(500).requeue_seconds is None
    assert world.writes == writes
    world.claim = kube.claim()
    world.put(kube.runs(puller, world.clock))
    world.step()
    assert world.condition("Ready") == ("False", "Resolving"), "nothing sticks"
    world.pull()
    assert world.condition("Ready") == ("False", "Starting")


@pytest.mark.parametrize(("act", "reason", "words"), [row[1:] for row in COMMON], ids=IDS)
def test_runners(act: Break, reason: str, words: str) -> None:
    world = World()
    world.step()
    world.pull()
    runner = world.runner()
    world.put(act(world, runner))
    world.step(4)
    for kind in ("Ready", "Available"):
        assert world.condition(kind) == ("False", reason)
        assert words in world.message(kind)
    assert world.condition("Reconciling") == ("True", reason)
    assert world.condition("Stalled") == ("", "")
    assert world.status()["readyReplicas"] == 0
    _is_sound(world)
    writes = world.writes
    world.step(500)
    assert world.writes == writes
    world.put(kube.is_ready(runner, world.clock))
    world.step()
    assert world.condition("Ready") == ("True", "Serving"), "nothing sticks"


@pytest.mark.parametrize(("act", "reason", "words"), [row[1:] for row in COMMON if row[0] != "evicted"])
def test_trouble_beside_a_runner_that_serves_is_told(act: Break, reason: str, words: str) -> None:
    world = served(replicas=2)
    world.edit(replicas=3)
    world.step()
    world.put(act(world, world.runner("third")))
    world.step(4)
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Available") == ("True", "RunnerReady")
    assert world.message("Available").startswith(f"2 of 3 runners are ready; {reason}: ")
    assert words in world.message("Available")


@pytest.mark.parametrize("who", ["puller", "runner"])
def test_a_moment_without_a_node_is_no_news(who: str) -> None:
    world = World()
    world.step()
    if who == "runner":
        world.pull()
    pod = world.puller() if who == "puller" else world.runner()
    world.put(kube.unschedulable(pod, NO_NODE, world.clock))
    before = world.condition("Ready")
    assert world.step(1).requeue_seconds == 3
    assert world.condition("Ready") == before
    world.step(3)
    assert world.condition("Ready") == ("False", "Unschedulable")


def test_no_pull_without_a_claim() -> None:
    world = World(claim=None)
    assert world.step(1).requeue_seconds == 5
    assert (world.condition("Ready"), world.many("Job")) == (("False", "Resolving"), [])
    assert world.step(5).requeue_seconds is None
    assert (world.condition("Ready"), world.many("Job")) == (("False", "CacheUnbound"), [])
    assert "PersistentVolumeClaim paddock-cache does not exist" in world.message("Cached")
    world.claim = kube.claim("Pending")
    world.step()
    assert (world.condition("Ready"), len(world.many("Job"))) == (("False", "Resolving"), 1)


def test_credentials_that_do_not_exist() -> None:
    world = World(model=kube.model_document(source={"ollama": {"name": "x", "secretRef": {"name": "hub"}}}))
    world.step()
    puller = world.puller()
    pod = world.one("Job")["spec"]["template"]["spec"]
    assert {"name": "credentials", "secret": {"secretName": "hub", "defaultMode": 0o440}} in pod["volumes"]
    assert pod["containers"][0]["args"][-2:] == ["--credentials", "/etc/paddock/credentials"]
    told = 'MountVolume.SetUp failed for volume "credentials" : secret "hub" not found'
    world.warnings[puller["metadata"]["uid"]] = ("FailedMount", told)
    world.step()
    assert world.condition("Ready") == ("False", "SecretNotFound")
    assert world.message("Ready").startswith("Secret hub does not exist in this namespace; create it")
    world.put(kube.runs(puller, world.clock))
    world.step()
    assert world.condition("Ready") == ("False", "Resolving")


@pytest.mark.parametrize(
    ("message", "code", "reason", "words"),
    [
        ("", 1, "Error", "exit code 1"),
        ("", 139, "Error", "signal 11"),
        ("", 137, "Error", "signal 9"),
        ("no json", 2, "Error", "exit code 2: no json"),
        ('{"event":"result"}', 1, "Error", "exit code 1"),
        ('{"time":"now","message":"no such flag"}', 2, "Error", "exit code 2: no such flag"),
        ("x" * 5000, 1, "Error", "exit code 1: xxx"),
        ("[" * 4000, 1, "Error", "exit code 1"),
        ("", 137, "OOMKilled", "(OOMKilled)"),
    ],
)
def test_a_puller_without_a_verdict(message: str, code: int, reason: str, words: str) -> None:
    world = World()
    world.step()
    puller = world.puller()
    last = kube.terminated(code, message, reason)
    world.put(kube.waits(puller, "CrashLoopBackOff", restarts=1, last=last))
    world.step()
    expected = "OOMKilled" if reason == "OOMKilled" else "PullerCrashed"
    assert world.condition("Ready") == ("False", expected)
    assert words in world.message("Ready")
    assert world.condition("Stalled") == ("", "")
    _is_sound(world)
    writes = world.writes
    waits = kube.waits(puller, "CrashLoopBackOff", restarts=2, last=last)
    again = kube.runs(puller, 9, restarts=2, last=last)
    for state in (again, waits, kube.ended(puller, code, message, reason, restarts=2)):
        world.put(state)
        world.step(50)
    assert world.writes - writes <= 1, "only the number of attempts may change, and that rarely"


def test_a_puller_that_says_nothing_and_ends_well_is_final() -> None:
    world = World()
    world.step()
    world.put(kube.ended(world.puller(), 0, "done"))
    world.step()
    assert world.condition("Ready") == ("False", "PullerCrashed")
    assert world.condition("Stalled") == ("True", "PullerCrashed")


def test_a_retryable_error_stays_until_the_next_attempt_has_something_to_show() -> None:
    world = World()
    world.step()
    puller = world.puller()
    last = kube.terminated(75, kube.error_message("NetworkError", "registry refused: 503", retryable=True))
    world.put(kube.ended(puller, 75, last["terminated"]["message"]))
    world.step()
    assert world.condition("Ready") == ("False", "NetworkError")
    assert world.message("Ready") == "registry refused: 503; it is tried again by itself"
    assert world.condition("Stalled") == ("", "")
    runs = world.put(kube.runs(puller, world.clock, restarts=1, last=last))
    world.step()
    assert world.condition("Ready") == ("False", "NetworkError")
    progress = {"event": "progress", "digest": A, "completed": 120, "total": 1000}
    world.events[runs["metadata"]["uid"]] = progress
    world.step(10)
    assert world.condition("Ready") == ("False", "Pulling")
    assert world.status()["pull"] == {"completed": 120, "total": 1000, "percent": 12, "attempts": 2}
    world.events[runs["metadata"]["uid"]] = {**progress, "completed": 122}
    writes = world.writes
    world.step(10)
    assert world.writes == writes
    world.pull()
    assert "pull" not in world.status()
    _is_sound(world)


def test_a_final_error_stalls_until_the_source_is_edited() -> None:
    world = World()
    world.step()
    (job,) = world.many("Job")
    message = kube.error_message("NotFound", "no such model", retryable=False)
    world.put(kube.ended(world.puller(), 0, message))
    world.children["Job", job] = kube.finished(world.one("Job"), world.clock)
    world.step()
    assert world.condition("Ready") == world.condition("Cached") == ("False", "NotFound")
    assert world.condition("Stalled") == ("True", "NotFound")
    assert "spec.source.resolve" in world.message("Ready")
    for _ in range(3):
        assert world.step(1000).requeue_seconds is None
    assert world.many("Job") == [job]
    world.edit(source={"ollama": {"name": "smollm2:135m"}, "resolve": "again"})
    world.step()
    assert world.many("Job") != [job]
    assert world.condition("Stalled") == ("", "")


def test_a_reason_that_is_not_of_the_list() -> None:
    world = World()
    world.step()
    world.put(kube.ended(world.puller(), 0, kube.error_message("Whatever", "odd\x07\nwords", retryable=False)))
    world.step()
    assert world.condition("Ready") == ("False", "PullFailed")
    assert world.message("Ready").startswith("odd words;")


@pytest.mark.parametrize("who", ["Job", "Deployment"])
def test_pods_that_may_not_be_made(who: str) -> None:
    world = World()
    world.step()
    if who == "Deployment":
        world.pull()
    said = 'pods "smollm2-x7f-{}" is forbidden: exceeded quota: small, requested: limits.memory=512Mi'
    child = world.one(who)
    for index, name in enumerate(("abcde", "fghij")):
        if who == "Job":
            world.warnings[child["metadata"]["uid"]] = ("FailedCreate", said.format(name))
        else:
            refused = kube.replica_failure(child, said.format(name))
            world.children[who, child["metadata"]["name"]] = refused
        writes = world.writes
        world.step()
        assert world.condition("Ready") == ("False", "FailedCreate")
        assert "a pod is forbidden: exceeded quota: small" in world.message("Ready")
        assert index == 0 or world.writes == writes, "random names are left out"


def test_a_job_whose_pod_cannot_start_follows_the_spec() -> None:
    world = World(model=kube.model_document(placement={"nodeSelector": {"disk": "none"}}))
    world.step()
    job = world.one("Job")
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "none"}
    world.put(kube.unschedulable(world.puller(), NO_NODE, world.clock))
    world.step(5)
    world.edit(placement={"nodeSelector": {"disk": "fast"}})
    world.step()
    assert world.many("Job") == [], "its template cannot change"
    world.pods = {}
    world.step()
    assert world.one("Job")["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "fast"}
    world.put(kube.runs(world.puller(), world.clock))
    world.edit(placement=None)
    world.step()
    assert len(world.many("Job")) == 1, "one that runs is left in peace"


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_a_job_that_ended_without_leaving_a_verdict_is_made_anew(kind: str) -> None:
    world = World()
    world.step()
    (name,) = world.many("Job")
    world.children["Job", name] = kube.finished(world.one("Job"), world.clock, kind)
    plan = world.step(1)
    if kind == "Complete":
        assert plan.requeue_seconds == 30
        assert world.many("Job") == [name], "its pod may be seen a little later"
        world.step(30)
    assert world.many("Job") == []
    world.step()
    assert world.many("Job") == [name]
    assert "status" not in world.one("Job")


def test_a_job_that_is_being_deleted_is_waited_for() -> None:
    world = World()
    world.step()
    (name,) = world.many("Job")
    world.children["Job", name] = kube.leaving(kube.finished(world.one("Job"), 0, "Failed"), world.clock)
    plan = world.step()
    assert ("Job", name) in plan.keep
    assert not any(item["kind"] == "Job" for item in plan.apply)


def test_a_container_that_crashes_tells_its_last_words() -> None:
    world = World()
    world.step()
    world.pull()
    said = '{"time":"t","level":"error","message":"the configuration is not valid: version"}'
    runner = world.put(kube.waits(world.runner(), "CrashLoopBackOff", restarts=2, last=kube.terminated(2, said)))
    world.step()
    assert world.condition("Ready") == ("False", "Crashed")
    assert "(2 or more restarts): exit code 2: the configuration is not valid: version" in world.message("Ready")
    assert world.condition("Available") == ("False", "Crashed")
    world.put(kube.waits(runner, "CrashLoopBackOff", restarts=3, last=kube.terminated(2, said)))
    world.step()
    assert world.condition("Ready") == ("False", "CrashLooping")
    assert world.condition("Stalled") == ("True", "CrashLooping")
    assert world.status()["quarantine"][0]["digest"] == A
    _is_sound(world)
    world.put(kube.is_ready(runner, world.clock, restarts=3))
    world.step()
    world.step()
    assert world.condition("Ready") == ("True", "Serving")
    assert "quarantine" not in world.status()


def test_an_engine_that_runs_out_of_memory_is_named() -> None:
    world = served()
    (name,) = [name for name in world.pods if name.endswith("r0")]
    pod = world.put(kube.runs(world.pods[name], world.clock))
    state = {
        "event": "state",
        "state": "crashed",
        "ready": False,
        "reason": "the engine was killed by signal 9",
    }
    world.events[pod["metadata"]["uid"]] = {**state, "restarts": 1, "oomKills": 1}
    world.step(5)
    assert world.condition("Ready") == ("False", "OOMKilled")
    limit = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert f"killed by signal 9; its memory limit is {limit}: raise spec.resources.memory" in world.message("Ready")
    assert world.condition("Reconciling") == ("", ""), "nothing changes: it broke"


def test_a_long_load_is_told() -> None:
    world = World()
    world.step()
    world.pull()
    pod = world.put(kube.runs(world.runner(), world.clock))
    state = {"event": "state", "state": "loading", "ready": False, "reason": "the engine is loading", "restarts": 0}
    world.events[pod["metadata"]["uid"]] = state
    assert world.step(4).requeue_seconds == 3
    assert world.condition("Ready") == ("False", "Starting")
    world.step(8)
    assert world.condition("Ready") == ("False", "Loading")
    assert world.step(100).requeue_seconds == 10


def test_the_spec_wins_over_a_puller_that_brings_something_else() -> None:
    world = World(model=kube.model_document(source={"ollama": {"name": "x", "digest": B}}))
    world.step()
    world.pull(A)
    assert world.condition("Ready") == ("False", "DigestMismatch")
    assert world.many("Deployment") == []


HOSTILE: list[dict[str, Any]] = [
    {"digest": "sha256:zz"},
    {"digest": A, "name": "", "size": 1},
    {"digest": A, "name": "x", "size": -1},
    {"digest": A, "name": "x", "size": True},
    {"digest": A, "name": "x", "size": 1 << 70},
    {"digest": [A], "name": "x", "size": 1},
]


@pytest.mark.parametrize("result", HOSTILE)
def test_results_that_are_none(result: dict[str, Any]) -> None:
    world = World()
    world.step()
    world.put(kube.ended(world.puller(), 0, kube.json.dumps({"event": "result", "result": result})))
    world.step()
    assert world.condition("Ready") == ("False", "PullerCrashed")


def test_details_that_a_status_cannot_hold_are_left_out() -> None:
    world = World()
    world.step()
    world.pull(family="f" * 100, headCount="9", blockCount=-1, vocabSize=True, odd=1, capabilities=["a", "a", 3, "b"])
    details = world.status()["details"]
    assert details["family"].endswith("…")
    assert details["capabilities"] == ["a", "b"]
    assert {"headCount", "blockCount", "vocabSize", "odd"}.isdisjoint(details)
    _is_sound(world)


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"adapters": [{"name": "a", "source": {"oci": {"reference": "r/a"}}}]}, "spec.adapters: "),
    ({"projector": {"source": {"oci": {"reference": "r/a"}}}}, "spec.projector: "),
    ({"resources": {"accelerator": {"vendor": "nvidia"}}}, "spec.resources.accelerator: runners use the processor"),
    ({"rollout": {"canary": {"prompt": "2+2?", "expect": "4"}}}, "spec.rollout.canary: "),
]


@pytest.mark.parametrize(("spec", "words"), UNSUPPORTED, ids=[words.partition(":")[0] for _, words in UNSUPPORTED])
def test_what_cannot_be_done_is_never_passed_over(spec: dict[str, Any], words: str) -> None:
    world = World(model=kube.model_document(**spec))
    world.step()
    assert world.condition("Ready") == ("False", "Unsupported")
    assert world.message("Ready").startswith(words)
    assert world.condition("Stalled") == ("True", "Unsupported")
    assert world.condition("Reconciling") == ("", "")
    assert world.condition("Resolved") == world.condition("Cached") == ("Unknown", "Unsupported")
    assert world.many("Job") == world.many("Deployment") == []
    _is_sound(world)
    writes = world.writes
    assert world.step(500).requeue_seconds is None
    assert world.writes == writes
    world.edit(source={"ollama": {"name": "x"}}, **{name: None for name in spec if name != "source"})
    world.step()
    assert world.condition("Stalled") == ("", "")
    assert world.condition("Ready") == ("False", "Resolving")


def test_an_edit_that_cannot_be_done_stops_what_served() -> None:
    world = served()
    world.edit(adapters=[{"name": "a", "source": {"oci": {"reference": "r/a"}}}])
    world.step()
    assert world.condition("Ready") == ("False", "Unsupported")
    assert world.condition("Resolved") == ("True", "Pinned"), "what is known stays known"
    assert world.one("Deployment")["spec"]["replicas"] == 0
    world.edit(adapters=None)
    world.step()
    assert world.one("Deployment")["spec"]["replicas"] == 1
    assert len(world.many("Job")) == 1, "nothing is pulled again"


def test_what_only_tunes_is_named() -> None:
    world = served(scaling={"minReplicas": 1, "maxReplicas": 3, "targetConcurrency": 8})
    assert world.condition("Ready") == ("True", "Serving")
    assert world.status()["effective"]["ignored"] == ["spec.scaling.maxReplicas", "spec.scaling.targetConcurrency"]
    _is_sound(world)
