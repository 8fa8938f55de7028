"""Which log is read, what a ConfigMap's times say, and the parts of pods that the plan makes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import kube_objects as kube
from tests.support.kube_objects import Document
from tests.support.kube_world import A, World, served

from paddock_operator.core.cluster.meta import POD_SECURITY, TEMPLATE_HASH
from paddock_operator.core.cluster.placement import memory_text
from paddock_operator.core.cluster.pods import config_changed_at, wants_log
from paddock_operator.core.cluster.settings import Cache, Images, Settings
from paddock_operator.core.cluster.snapshot import model_snapshot
from paddock_operator.core.cluster.source_settings import AllowedSource, Sources


def _pods() -> tuple[Document, Document]:
    world = World()
    world.step()
    puller = world.puller()
    world.pull()
    return puller, world.runner()


PULLER, RUNNER = _pods()
OLD = kube.at(0)

LOGS: list[tuple[str, Document, str, float, str | None]] = [
    ("puller, pending", PULLER, "", 5, None),
    ("puller, image missing", kube.waits(PULLER, "ImagePullBackOff"), "", 5, None),
    ("puller, runs", kube.runs(PULLER, 4), "", 5, "puller"),
    ("puller, ended", kube.ended(PULLER, 0), "", 5, None),
    ("puller, leaves", kube.leaving(kube.runs(PULLER, 4)), "", 5, None),
    ("runner, pending", RUNNER, "", 50, None),
    ("runner, back-off", kube.waits(RUNNER, "CrashLoopBackOff"), "", 50, None),
    ("runner, just started", kube.runs(RUNNER, 10), "", 13, None),
    ("runner, not ready for long", kube.runs(RUNNER, 10), "", 14, "runner"),
    ("runner, ready", kube.is_ready(RUNNER, 10), "", 14, None),
    ("runner, ready, changed before it was made", kube.is_ready(RUNNER, 10), OLD, 14, None),
    ("runner, ready, changed in the same second", kube.is_ready(RUNNER, 10), kube.at(1), 14, "runner"),
    ("runner, ready, changed after it was made", kube.is_ready(RUNNER, 10), kube.at(12), 14, "runner"),
    ("runner, leaves", kube.leaving(kube.is_ready(RUNNER, 10)), kube.at(12), 14, None),
    ("another's pod", {"metadata": {"name": "x"}}, "", 14, None),
]


@pytest.mark.parametrize(("pod", "changed", "now", "expected"), [row[1:] for row in LOGS], ids=[row[0] for row in LOGS])
def test_which_log_is_read(pod: Document, changed: str, now: float, expected: str | None) -> None:
    pod = {**pod, "metadata": {**pod["metadata"], "creationTimestamp": kube.at(1)}}
    assert wants_log(pod, changed, kube.at(now)) == expected


def test_a_gateways_pod_has_no_log_for_us() -> None:
    labels = {**RUNNER["metadata"]["labels"], "paddock.dev/component": "gateway"}
    pod = kube.runs({**RUNNER, "metadata": {**RUNNER["metadata"], "labels": labels}})
    pod["status"]["containerStatuses"][0]["name"] = "gateway"
    assert wants_log(pod, "", kube.at(100)) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], ""),
        ([("paddock", 0)], ""),
        ([("paddock", 7)], kube.at(7)),
        ([("kubectl", 9)], ""),
        ([("kubectl", 9), ("paddock", 7)], kube.at(7)),
    ],
)
def test_when_a_config_map_changed(fields: list[tuple[str, float]], expected: str) -> None:
    entries = [{"manager": manager, "time": kube.at(time)} for manager, time in fields]
    document = {"metadata": {"creationTimestamp": kube.at(0), "managedFields": entries}}
    assert config_changed_at(document) == expected
    assert config_changed_at({}) == ""


def _template(world: World) -> Document:
    found: Document = world.one("Deployment")["spec"]["template"]
    return found


def _container(world: World) -> Document:
    found: Document = _template(world)["spec"]["containers"][0]
    return found


def test_a_runner_pod_is_the_contracts() -> None:
    world = served()
    spec, runner = _template(world)["spec"], _container(world)
    assert runner["args"] == ["serve", "--config", "/etc/paddock/serve.json", "--listen", "[::]:8080"]
    assert spec["terminationGracePeriodSeconds"] == 45
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert spec["securityContext"] == POD_SECURITY
    assert runner["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert runner["securityContext"]["readOnlyRootFilesystem"] is True
    claim = {"name": "models", "persistentVolumeClaim": {"claimName": "paddock-cache", "readOnly": True}}
    assert claim in spec["volumes"]
    assert {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}} in spec["volumes"]
    assert runner["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert runner["readinessProbe"]["periodSeconds"] == 2
    assert runner["startupProbe"]["failureThreshold"] * runner["startupProbe"]["periodSeconds"] >= 120
    assert runner["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert "annotations" not in _template(world)["metadata"]
    assert runner["resources"] == {"requests": {"cpu": "500m", "memory": "868Mi"}, "limits": {"memory": "868Mi"}}
    (owner,) = world.one("Deployment")["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (kube.UID, True, False)


def test_a_puller_pod_is_the_contracts() -> None:
    world = World()
    allow = Sources((AllowedSource("registry:5000", "10.0.0.0/8", 5000), AllowedSource("other", "10.0.0.0/8")))
    images = Images("g:1", "r:1", "Always", ("hub",))
    world.settings = Settings(images=images, cache=Cache(claim_name="models"), sources=allow)
    world.step()
    job = world.one("Job")
    spec = job["spec"]["template"]["spec"]
    puller = spec["containers"][0]
    assert puller["args"][:5] == ["pull", "--models", "/models", "--request", "env:PADDOCK_PULL_REQUEST"]
    assert puller["args"][5:] == ["--pin-only", "--termination-message", "/dev/termination-log"]
    assert puller["env"][1] == {"name": "PADDOCK_ALLOW_INSECURE_HOSTS", "value": "registry:5000,other"}
    assert (puller["image"], puller["imagePullPolicy"]) == ("g:1", "Always")
    assert spec["imagePullSecrets"] == [{"name": "hub"}]
    assert (spec["restartPolicy"], job["spec"]["backoffLimit"]) == ("OnFailure", 2147483647)
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("paddock-puller", False)
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "models"}} in spec["volumes"]
    assert len(job["metadata"]["name"]) <= 63


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (
            {"memory": "6Gi", "cpu": 2},
            {"requests": {"cpu": "2", "memory": "6Gi"}, "limits": {"cpu": "2", "memory": "6Gi"}},
        ),
        (
            {"memory": "1.5Gi", "cpu": "1.5"},
            {"requests": {"cpu": "1500m", "memory": "1536Mi"}, "limits": {"cpu": "1500m", "memory": "1536Mi"}},
        ),
        ({"memory": 1000, "cpu": "0"}, {"requests": {"cpu": "500m", "memory": "1000"}, "limits": {"memory": "1000"}}),
    ],
)
def test_resources(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    world = served(resources=resources)
    assert _container(world)["resources"] == expected
    assert world.condition("Fits")[0] in ("True", "False"), "what spec grants is compared"


def test_placement() -> None:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    spread = {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    placement = {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 3}],
        "affinity": affinity,
        "topologySpreadConstraints": [spread],
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "schedulerName": "mine",
    }
    world = served(placement=placement)
    spec, puller = _template(world)["spec"], world.one("Job")["spec"]["template"]["spec"]
    assert spec["topologySpreadConstraints"] == [spread]
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "schedulerName"):
        assert spec[name] == puller[name] == placement[name]
    assert (spec["runtimeClassName"], "runtimeClassName" in puller) == ("nvidia", False)
    (default,) = _template(served())["spec"]["topologySpreadConstraints"]
    assert (default["topologyKey"], default["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")


@pytest.mark.parametrize(
    "change",
    [
        {"system": "x"}, {"template": "{{ .Prompt }}"}, {"parameters": {"temperature": 0.5}}, {"license": "MIT"},
        {"messages": [{"role": "user", "content": "hi"}]}, {"serving": {"keepAlive": "5m"}}, {"replicas": 2},
        {"rollout": {"strategy": "Drain", "rollback": "Disabled"}},
    ],
)  # fmt: skip
def test_small_changes_restart_nothing(change: dict[str, Any]) -> None:
    world = served()
    template = _template(world)
    mark = world.one("Deployment")["metadata"]["annotations"][TEMPLATE_HASH]
    world.edit(**change)
    assert world.step().rolls is False
    assert _template(world) == template
    assert world.one("Deployment")["metadata"]["annotations"][TEMPLATE_HASH] == mark


@pytest.mark.parametrize(
    "change",
    [
        {"serving": {"slots": 2}}, {"parameters": {"num_ctx": 512}}, {"resources": {"memory": "1Gi"}},
        {"placement": {"nodeSelector": {"a": "b"}}}, {"rollout": {"drainSeconds": 5}},
    ],
)  # fmt: skip
def test_large_changes_roll_even_without_a_turn(change: dict[str, Any]) -> None:
    world = served()
    world.may_roll = False
    world.edit(**change)
    assert world.step().rolls is True
    assert world.step().rolls is False


def test_a_large_model_gets_time() -> None:
    small, large = served(), World()
    large.step()
    job = large.one("Job")
    large.put(kube.ended(large.puller(job), 0, kube.result_message(A, size=40_000_000_000)))
    large.step()
    for world, least in ((small, 120), (large, 900)):
        probe = _container(world)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= least
        assert world.one("Deployment")["spec"]["progressDeadlineSeconds"] >= 600 + least


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1"), (1024, "1Ki"), (1 << 30, "1Gi"), (1536 << 20, "1536Mi"), (1 << 40, "1Ti")]
)
def test_memory_as_the_api_server_writes_it(size: int, text: str) -> None:
    assert memory_text(size) == text


def test_snapshots() -> None:
    world = World()
    first = model_snapshot(world.model)
    assert (first.addresses, first.ready, first.digest) == ((), False, "")
    world = served()
    seen = model_snapshot(world.model)
    assert seen.addresses == (f"http://{seen.service}.default.svc:8080",)
    assert (seen.ready, seen.available, seen.digest, seen.reason) == (True, True, A, "Serving")
    assert seen.service == world.one("Service")["metadata"]["name"]
    with pytest.raises(ValueError, match="Endpoint is not a Model"):
        model_snapshot({"kind": "Endpoint", "metadata": {"name": "x"}, "spec": {}})
