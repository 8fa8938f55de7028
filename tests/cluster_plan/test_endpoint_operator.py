"""The operator with its real plans on a real API server: an Endpoint from nothing to ready, at rest, and to its end.

There are no controllers and no nodes: the test plays the Deployment's controller, the kubelet and the gateway.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.kube.kit import Cluster, operator, path, until
from tests.support.apiserver import ApiServer
from tests.support.endpoint_world import endpoint_document
from tests.support.kube_objects import Document, at

from paddock_operator.core.cluster.endpoint import plan_cluster_endpoint
from paddock_operator.core.cluster.labels import common_labels
from paddock_operator.core.cluster.model import plan_cluster_model
from paddock_operator.core.cluster.namespace import plan_namespace
from paddock_operator.core.conditions import find
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.kinds import BY_NAME, CHILD_KINDS, CLAIM, SECRET
from paddock_operator.executors.kube.reconcile import Plans

PLANS = Plans(plan_cluster_model, plan_cluster_endpoint, plan_namespace)
REST_SECONDS = 2.0


@pytest.fixture
def cluster(apiserver: ApiServer, namespace: str) -> Cluster:
    """The API server, seen from a fresh namespace."""
    return Cluster(apiserver, namespace)


def manifest(namespace: str, **spec: Any) -> Document:
    document = endpoint_document("main", namespace, **spec)
    return {**document, "metadata": {"name": "main", "namespace": namespace}}


def ready(cluster: Cluster) -> tuple[str, str]:
    live = cluster.get(path(manifest(cluster.namespace))) or {}
    entry = find(live.get("status") or {}, "Ready")
    return entry.get("status", ""), entry.get("reason", "")


def versions(cluster: Cluster) -> dict[str, str]:
    """Resource versions of everything that the operator could write in the namespace."""
    found = {}
    for kind in (*CHILD_KINDS, SECRET, CLAIM, BY_NAME["Event"], BY_NAME["Endpoint"]):
        for item in (cluster.get(kind.path(cluster.namespace)) or {"items": []})["items"]:
            found[f"{kind.name}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
    return found


def start_gateway(cluster: Cluster, child: str, name: str) -> None:
    """A pod of the Deployment that is ready."""
    spec = {"containers": [{"name": "gateway", "image": "x"}], "serviceAccountName": child}
    labels = common_labels(Ref("Endpoint", cluster.namespace, "main"), "gateway")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    where = BY_NAME["Pod"].path(cluster.namespace)
    status, answer = cluster.api.request("POST", where, pod)
    assert status == 201, answer
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": at()}
    body = {"status": {"phase": "Running", "conditions": [condition]}}
    status, answer = cluster.api.request("PATCH", f"{where}/{name}/status", body, "application/merge-patch+json")
    assert status == 200, answer


def report(cluster: Cluster, child: str, name: str) -> None:
    """What a gateway does when it took up the configuration of its Secret."""
    secret = cluster.child("secrets", child)
    assert secret is not None
    value = {"config": secret["metadata"]["annotations"]["paddock.dev/config-hash"], "at": at()}
    where = f"/api/v1/namespaces/{cluster.namespace}/configmaps/{child}-gateways"
    body = {"data": {name: json.dumps(value)}}
    status, answer = cluster.api.request("PATCH", where, body, "application/merge-patch+json")
    assert status == 200, answer


def roll_out(cluster: Cluster, child: str) -> None:
    """What the Deployment's controller writes when all its pods are of the present template."""
    where = BY_NAME["Deployment"].path(cluster.namespace, child)
    live = cluster.get(where)
    assert live is not None
    counts = dict.fromkeys(
        ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), live["spec"]["replicas"]
    )
    body = {"status": {"observedGeneration": live["metadata"]["generation"], **counts}}
    status, answer = cluster.api.request("PATCH", f"{where}/status", body, "application/merge-patch+json")
    assert status == 200, answer


async def test_an_endpoint_from_nothing_to_ready_to_its_end(cluster: Cluster) -> None:
    child = child_name(Ref("Endpoint", cluster.namespace, "main"))
    async with operator(cluster.server.kubeconfig, PLANS):
        await cluster.apply_settled(manifest(cluster.namespace))
        assert ready(cluster) == ("False", "Starting")
        start_gateway(cluster, child, "g0")
        roll_out(cluster, child)
        await until("the gateway is seen", lambda: ready(cluster) == ("False", "Configuring"))
        report(cluster, child, "g0")
        await until("the Endpoint is ready", lambda: ready(cluster) == ("True", "GatewayReady"))

        await asyncio.sleep(REST_SECONDS)
        before = versions(cluster)
        await asyncio.sleep(REST_SECONDS)
        assert versions(cluster) == before, "at rest nothing is written"

        cluster.apply(manifest(cluster.namespace, limits={"concurrency": 3}))
        await until("the edit is on its way", lambda: ready(cluster) == ("False", "Configuring"))
        reports = cluster.child("configmaps", f"{child}-gateways")
        assert reports is not None
        assert "g0" in reports["data"], "what gateways wrote is theirs"
        report(cluster, child, "g0")
        await until("the edit is in force", lambda: ready(cluster) == ("True", "GatewayReady"))

        names = {name.partition("/")[0] for name in versions(cluster)}
        assert {"ServiceAccount", "NetworkPolicy", "PersistentVolumeClaim", "Role", "RoleBinding"} <= names
        cluster.delete(manifest(cluster.namespace))
        gone = "the shared policies go with the last object"
        await until(gone, lambda: not any(name.startswith("NetworkPolicy/paddock-") for name in versions(cluster)))
        assert "PersistentVolumeClaim/paddock-cache" in versions(cluster), "the claim is the user's"


async def test_a_restart_with_real_plans_writes_nothing(cluster: Cluster) -> None:
    async with operator(cluster.server.kubeconfig, PLANS):
        await cluster.apply_settled(manifest(cluster.namespace, replicas=0))
        await until("scaled to zero", lambda: ready(cluster) == ("False", "ScaledToZero"))
        await asyncio.sleep(REST_SECONDS)
    before = versions(cluster)
    async with operator(cluster.server.kubeconfig, PLANS):
        await asyncio.sleep(REST_SECONDS)
        assert versions(cluster) == before
