"""Caches in mode Node: one static volume per namespace, and pulls that go to the node of a runner that waits."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from e2e.cluster import layout, volume
from e2e.conftest import address, make_key
from e2e.support import objects
from e2e.support.cluster import Cluster, eventually, ready_pods
from e2e.support.helm import Release
from e2e.support.load import chat

NODE = "paddock.dev/node"
CLAIM = "paddock-cache"

pytestmark = pytest.mark.own_cluster


def test_a_node_without_the_bytes_gets_a_pull_of_its_own(cluster: Cluster, fresh: str, release: Release) -> None:
    """The first pull finds the digest. Then the node loses its bytes, as a node that never had them: its next runner
    waits, a Job that is pinned to that node brings them, and the runner serves.
    """
    with release.changed(cache={"mode": "Node", "accessMode": "ReadWriteMany"}):
        key = make_key(cluster, fresh)
        cluster.apply(fresh, objects.model("one"), objects.endpoint(models=("one",)))
        cluster.wait(fresh, "model", "one", timeout=300)
        claim = cluster.get(fresh, "persistentvolumeclaim", CLAIM) or {}
        assert (claim["status"]["phase"], claim["spec"]["volumeName"]) == ("Bound", volume.volume_name(fresh, CLAIM))
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        assert not _pinned(cluster, fresh), "the first pull ran on the node of the runner"
        before = _lose_bytes(cluster, fresh)
        job = eventually(lambda: _pinned(cluster, fresh), "a pull is pinned to the node", timeout=90)[0]
        _assert_pinned(cluster, fresh, job)
        eventually(lambda: before not in _ready(cluster, fresh), "a new runner is ready", timeout=180)
        found = cluster.wait(fresh, "model", "one", timeout=60)
        assert found["status"]["readyReplicas"] == 1
        assert len(_pulls(cluster, fresh)) == 1, "the first pull is not repeated"
        endpoint = cluster.wait(fresh, "endpoint", "main", timeout=60)
        answer = eventually(lambda: _answered(address(cluster, endpoint), key), "the Endpoint answers", timeout=60)
        assert answer.text


def _lose_bytes(cluster: Cluster, namespace: str) -> str:
    """Take away the first pull's Job, the bytes and the runner; returns the uid of that runner."""
    for job in _pulls(cluster, namespace):
        cluster.delete(namespace, "job", job["metadata"]["name"], "--wait=true", "--timeout=60s")
    (runner,) = cluster.pods(namespace, "model", "one", "runner")
    for part in ("manifests", "blobs"):
        shutil.rmtree(layout.VOLUMES / volume.volume_name(namespace, CLAIM) / part)
    cluster.delete(namespace, "pod", runner["metadata"]["name"], "--wait=false")
    return str(runner["metadata"]["uid"])


def _assert_pinned(cluster: Cluster, namespace: str, job: dict[str, Any]) -> None:
    """The Job goes to exactly the node of the runner, asks for exactly the pinned digest, and ends well."""
    spec = job["spec"]["template"]["spec"]
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": [layout.NODE]}]
    assert job["metadata"]["annotations"][NODE] == layout.NODE
    digest = (cluster.get(namespace, "model", "one") or {})["status"]["resolved"]["digest"]
    request = next(entry["value"] for entry in spec["containers"][0]["env"] if entry["name"] == "PADDOCK_PULL_REQUEST")
    assert digest in request
    name = job["metadata"]["name"]
    eventually(lambda: _succeeded(cluster, namespace, name), "the pinned pull ends well", timeout=120)


def _succeeded(cluster: Cluster, namespace: str, name: str) -> bool:
    found = cluster.get(namespace, "job", name) or {}
    return bool((found.get("status") or {}).get("succeeded"))


def _pulls(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    return cluster.all_of(namespace, "jobs", "paddock.dev/component=puller")


def _pinned(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    return [job for job in _pulls(cluster, namespace) if NODE in job["metadata"]["annotations"]]


def _ready(cluster: Cluster, namespace: str) -> list[str]:
    """Uids of the ready runners. Raises ValueError while there is none."""
    found = [pod["metadata"]["uid"] for pod in ready_pods(cluster.pods(namespace, "model", "one", "runner"))]
    if not found:
        raise ValueError("no runner is ready")
    return found


def _answered(url: str, key: str) -> Any:
    answer = chat(url, key, "one")
    if answer.error:
        raise ValueError(answer.error)
    return answer
