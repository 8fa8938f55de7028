"""What Models and Endpoints of a namespace share: who makes it, who collects garbage and when, and when it goes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support import kube_objects as kube
from tests.support.endpoint_world import endpoint_document
from tests.support.kube_objects import Document, model_document
from tests.support.namespace_world import namespace_seen
from tests.support.restricted import violations

from paddock_operator.core.cluster.namespace import plan_namespace
from paddock_operator.core.cluster.observed import Children, NamespaceSeen
from paddock_operator.core.cluster.settings import Cache, Images, Settings
from paddock_operator.core.cluster.types import ClusterPlan
from paddock_operator.core.identity import canonical_json

A, B, D, E = (f"sha256:{letter * 64}" for letter in "abde")
DAY = 86400


def model(name: str = "m", seconds: float = 0, **status: Any) -> Document:
    document = model_document(name)
    document["metadata"]["creationTimestamp"] = kube.at(seconds)
    return {**document, "status": {"observedGeneration": 1, "resolved": {"digest": A}, **status}}


def plan(seconds: float = 0, **fields: Any) -> ClusterPlan:
    return plan_of(namespace_seen(now=kube.at(seconds), **{"models": (model(),), **fields}))


def plan_of(seen: NamespaceSeen) -> ClusterPlan:
    made = plan_namespace(seen)
    assert made.status is None
    return made


def kinds(made: ClusterPlan) -> list[tuple[str, str]]:
    return [(item["kind"], item["metadata"]["name"]) for item in made.apply]


def job(made: ClusterPlan) -> Document | None:
    return next((dict(item) for item in made.apply if item["kind"] == "Job"), None)


def live(made: ClusterPlan) -> list[str]:
    found = job(made)
    assert found is not None
    (entry,) = [
        item for item in found["spec"]["template"]["spec"]["containers"][0]["env"] if item["name"] == "PADDOCK_LIVE"
    ]
    digests: list[str] = json.loads(entry["value"])["digests"]
    return digests


def collector(seconds: float, done: bool = True) -> Document:
    """A live collector Job that was made at a time."""
    made = job(plan(seconds + DAY, models=(model("x", seconds - DAY),)))
    assert made is not None
    made["metadata"]["name"] = f"paddock-collect-{int(seconds)}"
    born = kube.born(made, seconds)
    return kube.finished(born, seconds + 5) if done else born


SHARED = [
    ("ServiceAccount", "paddock-puller"),
    ("ServiceAccount", "paddock-runner"),
    ("NetworkPolicy", "paddock-puller"),
    ("NetworkPolicy", "paddock-runner"),
    ("NetworkPolicy", "paddock-collector"),
    ("NetworkPolicy", "paddock-converter"),
]


@pytest.mark.parametrize("who", ["models", "endpoints"])
def test_shared_objects_come_with_the_first_object(who: str) -> None:
    document = model() if who == "models" else endpoint_document()
    made = plan_of(namespace_seen(**{who: (document,)}))
    assert kinds(made) == SHARED
    for item in made.apply:
        assert "ownerReferences" not in item["metadata"]
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "paddock"
        assert item["metadata"]["labels"]["paddock.dev/child"] == "namespace"
    accounts = [item for item in made.apply if item["kind"] == "ServiceAccount"]
    assert [item["automountServiceAccountToken"] for item in accounts] == [False, False]


def test_the_claim_is_made_once_and_never_touched_again() -> None:
    cache = Cache(claim_name="c", size="5Gi", storage_class="fast", access_mode="ReadWriteMany")
    first = plan(claim=None, settings=Settings(cache=cache))
    (claim,) = [item for item in first.apply if item["kind"] == "PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == "c"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "5Gi"}},
        "storageClassName": "fast",
    }
    again = plan(claim=kube.claim(phase="Pending"), settings=Settings(cache=cache))
    assert kinds(again) == SHARED
    assert ("PersistentVolumeClaim", "c") in again.keep
    plain = next(item for item in plan(claim=None).apply if item["kind"] == "PersistentVolumeClaim")
    assert "storageClassName" not in plain["spec"], "absent is the cluster's default; empty would be none"


def test_nothing_stays_when_the_last_object_is_gone() -> None:
    seen = namespace_seen(children=Children(jobs=(collector(0),)))
    assert plan_of(seen) == ClusterPlan(())


def test_pods_that_drain_keep_their_policies() -> None:
    policy = kube.born(plan().apply[3])
    runner = {"metadata": {"name": "r", "labels": {"paddock.dev/component": "runner"}}, "status": {"phase": "Running"}}
    draining = namespace_seen(children=Children(network_policies=(policy,)), pods=(runner,))
    made = plan_of(draining)
    assert (made.apply, made.keep, made.requeue_seconds) == ((), (("NetworkPolicy", "paddock-runner"),), 5.0)
    over = {**runner, "status": {"phase": "Succeeded"}}
    assert plan_of(replace(draining, pods=(over,))).keep == ()


DUE: list[tuple[str, float, dict[str, Any], bool, float | None]] = [
    # seconds since T0, what is there, whether a Job starts, seconds until the next look
    ("a fresh namespace waits", 10, {}, False, DAY - 10),
    ("the oldest Model counts", DAY, {"models": (model("n", DAY), model("o"))}, True, None),
    ("due", DAY, {}, True, None),
    ("long due", 10 * DAY, {}, True, None),
    ("the newest Job counts", 2 * DAY, {"children": Children(jobs=(collector(DAY),))}, True, None),
    ("not yet again", 2 * DAY - 1, {"children": Children(jobs=(collector(DAY),))}, False, 1),
    ("one at a time", 3 * DAY, {"children": Children(jobs=(collector(DAY, done=False),))}, False, None),
    ("a claim is needed", DAY, {"claim": None}, False, 60),
    ("a Model that nobody looked at", DAY, {"models": (model(), model_document("new"))}, False, 60),
    ("nothing is pinned", DAY, {"models": (model(resolved={}),)}, False, DAY),
    ("no Models", 9 * DAY, {"models": (), "endpoints": (endpoint_document(),)}, False, None),
    ("by the settings", 100, {"settings": Settings(collect_seconds=100)}, True, None),
]


@pytest.mark.parametrize(
    ("seconds", "fields", "starts", "wait"), [case[1:] for case in DUE], ids=[case[0] for case in DUE]
)
def test_when_a_collector_starts(seconds: float, fields: dict[str, Any], starts: bool, wait: float | None) -> None:
    made = plan(seconds, **fields)
    assert (job(made) is not None) is starts
    assert made.requeue_seconds == wait


def test_finished_jobs_but_the_newest_go_and_running_ones_stay() -> None:
    jobs = tuple(collector(seconds, done) for seconds, done in ((0, False), (DAY, True), (2 * DAY, True)))
    kept = [name for kind, name in plan(2 * DAY + 9, children=Children(jobs=jobs)).keep if kind == "Job"]
    assert kept == ["paddock-collect-0", f"paddock-collect-{2 * DAY}"]


def test_every_digest_that_may_be_needed_is_named() -> None:
    models = (
        model("a", history=[{"digest": B}, {"digest": A}]),
        {**model("b", resolved={}), "spec": {"source": {"ollama": {"name": "x", "digest": D}}}},
    )
    config = {"metadata": {"name": "c"}, "data": {"serve.json": canonical_json({"digest": E}).decode()}}
    broken = {"metadata": {"name": "d"}, "data": {"serve.json": "no json"}}
    assert live(plan(DAY, models=models, model_config_maps=(config, broken, {"metadata": {}}))) == [A, B, D, E]


def test_a_list_that_does_not_fit_starts_nothing() -> None:
    many = tuple(model(f"m{n}", resolved={"digest": f"sha256:{n:064x}"}) for n in range(1501))
    made = plan(DAY, models=many)
    assert job(made) is None
    assert [note.reason for note in made.notes] == ["CollectorSkipped"]
    assert len(live(plan(DAY, models=many[:1500]))) == 1500
    assert len(json.dumps(live(plan(DAY, models=many[:1500])))) < 128 * 1024


def test_the_collector() -> None:
    images = Images("gateway:1", "runner:1", pull_secrets=("hub",))
    found = job(plan(DAY, settings=Settings(images=images)))
    assert found is not None
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [
        *("collect", "--models", "/models", "--live", "env:PADDOCK_LIVE", "--min-age", "3600"),
    ]
    assert (container["image"], pod["serviceAccountName"]) == ("gateway:1", "paddock-puller")
    assert pod["automountServiceAccountToken"] is False
    assert pod["imagePullSecrets"] == [{"name": "hub"}]
    assert found["spec"]["template"]["metadata"]["labels"]["paddock.dev/component"] == "collector"
    assert "readOnly" not in next(item for item in container["volumeMounts"] if item["name"] == "models")
    assert violations(pod) == []


PER_NODE = Settings(cache=Cache(mode="Node"))


def on_node(name: str, node: str, component: str = "runner") -> Document:
    return {"metadata": {"name": name, "labels": {"paddock.dev/component": component}}, "spec": {"nodeName": node}}


PODS = (on_node("a", "n2"), on_node("b", "n1", "puller"), on_node("c", "n1"), on_node("d", ""), on_node("e", "n3", "x"))


def test_where_every_node_has_a_cache_each_gets_a_collector() -> None:
    made = [item for item in plan(DAY, settings=PER_NODE, pods=PODS).apply if item["kind"] == "Job"]
    pods = [item["spec"]["template"]["spec"] for item in made]
    required = [pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] for pod in pods]
    terms = [term for entry in required for term in entry["nodeSelectorTerms"]]
    assert [term["matchFields"] for term in terms] == [
        [{"key": "metadata.name", "operator": "In", "values": [node]}] for node in ("n1", "n2")
    ]
    assert len({item["metadata"]["name"] for item in made}) == 2
    assert job(plan(DAY, settings=PER_NODE)) is None, "no node is known to have bytes"
    live = tuple(kube.finished(kube.born(item, DAY), DAY + 5) for item in made)
    older = collector(0)
    kept = {name for kind, name in plan(DAY + 9, children=Children(jobs=(older, *live))).keep if kind == "Job"}
    assert kept == {item["metadata"]["name"] for item in made}


def test_a_collector_goes_wherever_runners_go() -> None:
    mine = {"key": "gpu", "operator": "Exists"}
    models = tuple(
        {**model(name), "spec": {"source": {}, "placement": {"tolerations": [mine, {"key": name}]}}} for name in "ab"
    )
    found = job(plan(DAY, models=models))
    assert found is not None
    assert found["spec"]["template"]["spec"]["tolerations"] == [mine, {"key": "a"}, {"key": "b"}]


def test_the_same_job_is_planned_until_it_is_seen_and_then_kept() -> None:
    first, again = job(plan(DAY)), job(plan(DAY + 7))
    assert first == again
    assert first is not None
    after = plan(DAY + 8, children=Children(jobs=(kube.born(first, DAY + 7),)))
    assert job(after) is None
    assert ("Job", first["metadata"]["name"]) in after.keep
