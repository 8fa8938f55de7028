"""Bad Models: the right condition, reason and message soon after the API shows it, and recovery by the fix alone."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from e2e.conftest import FILES, PAGE, weights
from e2e.support import objects
from e2e.support.cluster import Cluster

WRONG = "0" * 64


@pytest.mark.parametrize(
    ("bad", "reasons", "words"),
    [
        ({"sha256": WRONG}, {"DigestMismatch"}, objects.SHA256[:12]),
        ({"file": "absent.gguf"}, {"NotFound"}, "absent.gguf"),
    ],
    ids=["wrong-sha256", "not-found"],
)
def test_a_bad_source_is_named_and_its_fix_recovers(
    cluster: Cluster, fresh: str, bad: dict[str, Any], reasons: set[str], words: str
) -> None:
    cluster.apply(fresh, objects.model("one", **bad))
    found = cluster.wait_reason(fresh, "model", "one", reasons, timeout=90)
    assert words in found["message"], found
    assert cluster.condition(fresh, "model", "one", "Stalled").get("status") == "True"
    cluster.apply(fresh, objects.model("one"))
    cluster.wait(fresh, "model", "one")
    assert not cluster.condition(fresh, "model", "one", "Stalled")


def test_a_file_that_is_no_model(cluster: Cluster, fresh: str) -> None:
    sha256 = hashlib.sha256(PAGE).hexdigest()
    cluster.apply(fresh, objects.model("one", file="page.gguf", sha256=sha256))
    found = cluster.wait_reason(fresh, "model", "one", {"NotGGUF"}, timeout=90)
    assert "GGUF" in found["message"]


def test_a_file_that_ends_early(cluster: Cluster, fresh: str) -> None:
    sha256 = hashlib.sha256(weights().read_bytes()[:1000]).hexdigest()
    cluster.apply(fresh, objects.model("one", file="short.gguf", sha256=sha256))
    cluster.wait_reason(fresh, "model", "one", {"TruncatedGGUF", "InvalidGGUF"}, timeout=90)


def test_an_unreachable_server_is_tried_again(cluster: Cluster, fresh: str) -> None:
    """Nobody serves the file yet: the condition says so; once somebody does, nobody has to touch the Model."""
    late = objects.model("one")
    late["spec"]["source"]["http"]["url"] = f"http://{objects.FILES}:8001/{objects.FILE}"
    cluster.apply(fresh, late)
    found = cluster.wait_reason(fresh, "model", "one", {"NetworkError"}, timeout=90)
    assert "8001" in found["message"]
    assert not cluster.condition(fresh, "model", "one", "Stalled")
    try:
        cluster.patch(FILES, "service", "files", {"spec": {"ports": [objects.FILES_PORT, objects.LATE_PORT]}})
        cluster.wait(fresh, "model", "one", timeout=300)
    finally:
        closed = {**objects.LATE_PORT, "targetPort": 9}
        cluster.patch(FILES, "service", "files", {"spec": {"ports": [objects.FILES_PORT, closed]}})


def test_a_host_that_the_operator_does_not_allow(cluster: Cluster, fresh: str) -> None:
    bad = objects.model("one")
    bad["spec"]["source"]["http"]["url"] = "http://kubernetes.default.svc/smollm2.gguf"
    cluster.apply(fresh, bad)
    found = cluster.wait_reason(fresh, "model", "one", {"ForbiddenAddress", "InsecureSource"}, timeout=90)
    assert "kubernetes.default.svc" in found["message"]


def test_too_little_memory(cluster: Cluster, fresh: str) -> None:
    cluster.apply(fresh, objects.model("one", resources={"memory": "160Mi", "cpu": "500m"}))
    found = cluster.wait_reason(fresh, "model", "one", {"OOMKilled"}, timeout=120)
    assert "160" in found["message"] or "memory" in found["message"]
    assert cluster.condition(fresh, "model", "one", "Fits").get("status") == "False"
    cluster.apply(fresh, objects.model("one"))
    cluster.wait(fresh, "model", "one")


def test_unschedulable(cluster: Cluster, fresh: str) -> None:
    cluster.apply(fresh, objects.model("one", placement={"nodeSelector": {"paddock.dev/absent": "yes"}}))
    found = cluster.wait_reason(fresh, "model", "one", {"Unschedulable"}, timeout=90)
    assert "node" in found["message"]
    cluster.apply(fresh, objects.model("one"))
    cluster.wait(fresh, "model", "one")


def test_a_missing_secret(cluster: Cluster, fresh: str) -> None:
    bad = objects.model("one")
    bad["spec"]["source"] = {
        "ollama": {"name": f"{objects.FILES}:8000/library/x:latest", "secretRef": {"name": "absent"}}
    }
    cluster.apply(fresh, bad)
    found = cluster.wait_reason(fresh, "model", "one", {"SecretNotFound", "FailedMount"}, timeout=120)
    assert "absent" in found["message"]


def test_a_quota_that_forbids_the_pod(cluster: Cluster, fresh: str) -> None:
    """The Job cannot make its pod: the words of the API server stand in the condition; without the quota it goes on."""
    hard = {"spec": {"hard": {"pods": "0"}}}
    cluster.apply(fresh, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, **hard})
    cluster.apply(fresh, objects.model("one"))
    found = cluster.wait_reason(fresh, "model", "one", {"FailedCreate"}, timeout=60)
    assert "quota" in found["message"]
    cluster.delete(fresh, "resourcequota", "none")
    cluster.wait(fresh, "model", "one", timeout=300)
