"""Scaling by hand and by an autoscaler's object."""

from __future__ import annotations

import json

import pytest

from e2e.conftest import Line
from e2e.support import objects
from e2e.support.cluster import Cluster, eventually, ready_pods


def test_kubectl_scale(cluster: Cluster, fresh: str) -> None:
    cluster.apply(fresh, objects.model("one"))
    cluster.wait(fresh, "model", "one")
    cluster.kubectl("scale", "model/one", "--replicas=2", "-n", fresh)
    eventually(lambda: len(ready_pods(cluster.pods(fresh, "model", "one", "runner"))) == 2, "two runners", timeout=120)
    found = cluster.wait(fresh, "model", "one")
    assert not [item for item in found["status"]["conditions"] if item["type"] == "Reconciling"]
    eventually(lambda: (cluster.get(fresh, "model", "one") or {})["status"]["readyReplicas"] == 2, "status says two")
    assert cluster.get(fresh, "poddisruptionbudget", cluster.child(fresh, "model", "one"))
    cluster.kubectl("scale", "model/one", "--replicas=0", "-n", fresh)
    eventually(lambda: not cluster.pods(fresh, "model", "one", "runner"), "no runner", timeout=90)
    assert cluster.wait_reason(fresh, "model", "one", {"Idle"}, timeout=30)["status"] == "True"
    assert cluster.condition(fresh, "model", "one", "Available")["status"] == "False"


def test_an_autoscaler_finds_its_target(cluster: Cluster, line: Line) -> None:
    """The scale subresource as an HPA reads it: replicas and a selector that matches exactly the runners."""
    cluster.patch(line.namespace, "model", "smollm2", {"spec": {"replicas": 1}})
    cluster.wait(line.namespace, "model", "smollm2")
    path = f"/apis/paddock.dev/v1alpha1/namespaces/{line.namespace}/models/smollm2/scale"
    scale = json.loads(cluster.kubectl("get", "--raw", path).stdout)
    assert scale["status"]["replicas"] == 1
    pods = cluster.all_of(line.namespace, "pods", scale["status"]["selector"])
    assert {pod["metadata"]["labels"]["paddock.dev/component"] for pod in pods} == {"runner"}
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "smollm2"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "paddock.dev/v1alpha1", "kind": "Model", "name": "smollm2"},
            "minReplicas": 1,
            "maxReplicas": 2,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                }
            ],
        },
    }
    cluster.apply(line.namespace, hpa)

    def able() -> bool:
        found = cluster.get(line.namespace, "hpa", "smollm2") or {}
        conditions = {item["type"]: item["status"] for item in found.get("status", {}).get("conditions", [])}
        return conditions.get("AbleToScale") == "True"

    eventually(able, "the autoscaler reads the Model's scale", timeout=60)
    cluster.delete(line.namespace, "hpa", "smollm2")


@pytest.mark.parametrize("replicas", [1, 0])
def test_replicas_and_scaling_exclude_each_other(cluster: Cluster, fresh: str, replicas: int) -> None:
    both = objects.model("one", replicas=replicas, scaling={"maxReplicas": 2})
    with pytest.raises(AssertionError, match="exclude each other"):
        cluster.apply(fresh, both)
