"""Git owns the manifests: no drift, prune works, and every health check agrees with `kubectl wait`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import urllib.request

from tests.support.argocd import health

from e2e.conftest import SYSTEM, Line, tiny
from e2e.support import objects
from e2e.support.cluster import Cluster, Object, built, eventually
from e2e.support.helm import Release

RESYNC_SECONDS = 5
HOUR_OF_RESYNCS = 12
"""Two Models, each looked at every 10 minutes if nothing rings."""


def test_the_diff_of_gits_manifests_stays_empty(cluster: Cluster, fresh: str, release: Release) -> None:
    """Applied server-side by Git's own manager, then as many resyncs as an hour brings: the operator owns no spec."""
    wanted = [objects.model("one", file="tiny.gguf", sha256=tiny_sha256()), objects.endpoint(models=("one",))]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
    git = ["--server-side", "--field-manager=git", "-n", fresh, "-f", "-"]
    cluster.kubectl("apply", *git, stdin=text)
    cluster.wait(fresh, "model", "one")
    cluster.wait(fresh, "endpoint", "main")
    with release.changed(resyncSeconds=RESYNC_SECONDS):
        before = reconciles(cluster)
        eventually(lambda: reconciles(cluster) >= before + HOUR_OF_RESYNCS, "an hour of resyncs", timeout=180)
        diff = cluster.kubectl("diff", *git, stdin=text, check=False)
    assert (diff.returncode, diff.stdout) == (0, "")
    for kind, name in (("model", "one"), ("endpoint", "main")):
        found = cluster.kubectl("get", kind, name, "-n", fresh, "-o", "json", "--show-managed-fields").stdout
        owners = {entry["manager"]: entry for entry in json.loads(found)["metadata"]["managedFields"]}
        assert set(owners) == {"git", "paddock"}
        assert owners["paddock"]["subresource"] == "status"
        assert set(owners["paddock"]["fieldsV1"]) == {"f:status"}


def reconciles(cluster: Cluster) -> float:
    """How often the operator has looked at Models, by its own metrics."""
    pod = next(item for item in cluster.all_of(SYSTEM, "pods") if "deletionTimestamp" not in item["metadata"])
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9090/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("paddock_reconcile_total{") and 'kind="Model"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def test_apply_prune_removes_what_git_dropped(cluster: Cluster, fresh: str) -> None:
    both = [objects.model("one"), objects.model("two")]
    for item in both:
        item["metadata"]["labels"] = {"git": "fleet"}
    prune = ["--prune", "-l", "git=fleet", "-n", fresh, "-f", "-", "--prune-allowlist=paddock.dev/v1alpha1/Model"]
    cluster.kubectl("apply", *prune, stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": both}))
    cluster.wait(fresh, "model", "one")
    cluster.kubectl("apply", *prune, stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": both[:1]}))
    eventually(lambda: cluster.get(fresh, "model", "two") is None, "two is gone", timeout=30)
    eventually(lambda: not cluster.all_of(fresh, "deployments", "paddock.dev/component=runner")[1:], "its children too")
    cluster.wait(fresh, "model", "one")


def test_wait_by_the_words_of_kubectl(cluster: Cluster, line: Line) -> None:
    for kind, name in (("model", "smollm2"), ("endpoint", "main")):
        cluster.kubectl("wait", f"{kind}/{name}", "-n", line.namespace, "--for=condition=Ready", "--timeout=10s")


def test_every_health_check_agrees_with_the_conditions(cluster: Cluster, fresh: str) -> None:
    """Argo CD's scripts and kstatus (Flux) on real statuses: served, being pulled, stalled for good."""
    cluster.apply(
        fresh, objects.model("one", file="tiny.gguf", sha256=tiny_sha256()), objects.endpoint(models=("one",))
    )
    cluster.apply(fresh, objects.model("bad", sha256="0" * 64))
    early = cluster.get(fresh, "model", "bad") or {}
    assert (health("model", early)[0], kstatus(early)) == ("Progressing", "InProgress")
    for kind, name in (("model", "one"), ("endpoint", "main")):
        found = cluster.wait(fresh, kind, name)
        assert (health(kind, found)[0], kstatus(found)) == ("Healthy", "Current")
    cluster.wait_reason(fresh, "model", "bad", {"DigestMismatch"}, timeout=90)
    stalled = cluster.wait(fresh, "model", "bad", of="Stalled", timeout=30)
    assert (health("model", stalled)[0], kstatus(stalled)) == ("Degraded", "Failed")
    cluster.patch(fresh, "model", "one", {"spec": {"suspend": True}})
    suspended = cluster.wait(fresh, "model", "one", status="False", timeout=60)
    assert health("model", suspended)[0] == "Suspended"


def kstatus(document: Object) -> str:
    """What kstatus, the library that Flux waits with, makes of an object."""
    program = str(built("kstatus"))
    done = subprocess.run([program], input=json.dumps(document), capture_output=True, text=True, check=True)
    return done.stdout.split("\t")[0]


def tiny_sha256() -> str:
    return hashlib.sha256(tiny()).hexdigest()
