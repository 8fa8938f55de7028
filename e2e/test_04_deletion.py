"""What is deleted goes completely; bytes go when the collector runs, and not before."""

from __future__ import annotations

import hashlib

from e2e.conftest import tiny
from e2e.support import objects
from e2e.support.cluster import Cluster, eventually
from e2e.support.helm import Release

CHILDREN = (
    "jobs,pods,deployments,configmaps,services,poddisruptionbudgets,secrets,serviceaccounts,roles,rolebindings,"
    "networkpolicies"
)
OURS = "app.kubernetes.io/managed-by=paddock"


def test_models_and_endpoints_take_their_children_with_them(cluster: Cluster, fresh: str) -> None:
    cluster.apply(fresh, objects.model("one"), objects.endpoint(models=("one",)))
    cluster.wait(fresh, "model", "one")
    cluster.wait(fresh, "endpoint", "main")
    cluster.delete(fresh, "endpoint", "main", "--timeout=30s")
    eventually(lambda: not _of(cluster, fresh, "gateway"), "the gateway's children are gone", timeout=90)
    cluster.wait(fresh, "model", "one")
    cluster.delete(fresh, "model", "one", "--timeout=30s")
    eventually(lambda: not _names(cluster, fresh), "every child is gone", timeout=120)
    assert cluster.get(fresh, "persistentvolumeclaim", "paddock-cache"), "the cache outlives its Models"


def test_a_namespace_with_everything_in_it_goes_without_help(cluster: Cluster, fresh: str) -> None:
    cluster.apply(fresh, objects.model("one"), objects.endpoint(models=("one",)))
    cluster.wait(fresh, "model", "one")
    cluster.kubectl("delete", "namespace", fresh, "--timeout=120s", timeout=150)


def test_bytes_go_when_the_collector_runs_and_not_before(cluster: Cluster, fresh: str, release: Release) -> None:
    """A Model that is gone names its bytes no more; the other one keeps its own."""
    other = hashlib.sha256(tiny()).hexdigest()
    cluster.apply(fresh, objects.model("one"), objects.model("keep", file="tiny.gguf", sha256=other))
    cluster.wait(fresh, "model", "one")
    cluster.wait(fresh, "model", "keep")
    mine, kept = f"sha256-{objects.SHA256}", f"sha256-{other}"
    with release.changed(collectSeconds=5, collectMinAgeSeconds=0):
        eventually(lambda: _collected(cluster, fresh), "the collector ran", timeout=120)
        assert {mine, kept} <= _blobs(cluster, fresh), "both Models need their bytes"
        cluster.delete(fresh, "model", "one", "--timeout=30s")
        eventually(lambda: mine not in _blobs(cluster, fresh), "the collector freed the bytes", timeout=120)
        assert kept in _blobs(cluster, fresh)


def _names(cluster: Cluster, namespace: str) -> list[str]:
    found = cluster.all_of(namespace, CHILDREN, OURS)
    return [f"{item['kind']}/{item['metadata']['name']}" for item in found]


def _of(cluster: Cluster, namespace: str, component: str) -> list[str]:
    found = cluster.all_of(namespace, CHILDREN, f"{OURS},paddock.dev/component={component}")
    return [f"{item['kind']}/{item['metadata']['name']}" for item in found]


def _collected(cluster: Cluster, namespace: str) -> bool:
    jobs = cluster.all_of(namespace, "jobs", f"{OURS},paddock.dev/component=collector")
    return any(job.get("status", {}).get("succeeded") for job in jobs)


def _blobs(cluster: Cluster, namespace: str) -> set[str]:
    """Names in the cache, as a pod of ours sees it."""
    pod = cluster.pods(namespace, "model", "keep", "runner")[0]["metadata"]["name"]
    return set(cluster.kubectl("exec", pod, "-n", namespace, "--", "ls", "/models/blobs").stdout.split())
