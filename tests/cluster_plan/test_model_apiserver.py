"""A real API server accepts every manifest of a Model, keeps it as planned, and a second time changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import kube_objects as kube
from tests.support.apiserver import ApiServer
from tests.support.kube_objects import Document
from tests.support.kube_world import A, World

from paddock_operator.core.cluster.settings import Cache, Settings

APIS = {
    "Job": "apis/batch/v1",
    "Deployment": "apis/apps/v1",
    "ConfigMap": "api/v1",
    "Service": "api/v1",
    "PodDisruptionBudget": "apis/policy/v1",
}
STRICT = "fieldManager=paddock&force=true&fieldValidation=Strict"
ZONE = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
FULL: dict[str, Any] = {
    "source": {"ollama": {"name": "x", "secretRef": {"name": "hub"}}},
    "replicas": 3,
    "placement": {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [ZONE]}}},
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "schedulerName": "mine",
    },
    "resources": {"memory": "1.5Gi", "cpu": "0.75"},
    "rollout": {"drainSeconds": 0},
}
SPECS: list[tuple[str, dict[str, Any]]] = [
    ("plain", {}),
    ("full", FULL),
    ("vast", {"resources": {"memory": "9" * 15 + "Ti", "cpu": "0.001m"}, "rollout": {"strategy": "Drain"}}),
]


def _path(manifest: Document, namespace: str) -> str:
    plural = manifest["kind"].lower() + "s"
    return f"/{APIS[manifest['kind']]}/namespaces/{namespace}/{plural}/{manifest['metadata']['name']}?{STRICT}"


@pytest.mark.parametrize("spec", [spec for _, spec in SPECS], ids=[name for name, _ in SPECS])
def test_manifests_on_a_real_server(apiserver: ApiServer, namespace: str, spec: dict[str, Any]) -> None:
    document = kube.model_document("a.model", namespace, **spec)
    document["metadata"].pop("uid")
    path = f"/apis/paddock.dev/v1alpha1/namespaces/{namespace}/models/a.model?fieldManager=git"
    for key in ("generation", "creationTimestamp"):
        document["metadata"].pop(key)
    status, model = apiserver.api.request("PATCH", path, document, "application/apply-patch+yaml")
    assert status == 201, model
    world = World(model=model)
    first = world.step()
    world.pull(A)
    second = world.plan()
    made = [*(item for item in first.apply if item["kind"] == "Job"), *second.apply]
    assert {item["kind"] for item in made} == set(APIS) - (set() if "replicas" in spec else {"PodDisruptionBudget"})
    for manifest in made:
        patch = _path(dict(manifest), namespace), manifest, "application/apply-patch+yaml"
        status, stored = apiserver.api.request("PATCH", *patch)
        assert status == 201, stored
        assert kube.covers(stored, manifest)
        status, again = apiserver.api.request("PATCH", *patch)
        assert (status, again["metadata"]["resourceVersion"]) == (200, stored["metadata"]["resourceVersion"])


def test_a_pull_on_a_node_on_a_real_server(apiserver: ApiServer, namespace: str) -> None:
    world = World(model=kube.model_document("c", namespace, **FULL), settings=Settings(cache=Cache(mode="Node")))
    world.step()
    world.pull(A)
    runner = world.runner()
    world.put({**runner, "spec": {**runner["spec"], "nodeName": "n2"}})
    (job,) = (dict(item) for item in world.plan().apply if item["kind"] == "Job")
    status, stored = apiserver.api.request("PATCH", _path(job, namespace), job, "application/apply-patch+yaml")
    assert status == 201, stored
    assert kube.covers(stored, job)


def test_a_status_on_a_real_server(apiserver: ApiServer, namespace: str) -> None:
    document = kube.model_document("b", namespace)
    document["metadata"] = {"name": "b", "namespace": namespace}
    path = f"/apis/paddock.dev/v1alpha1/namespaces/{namespace}/models/b"
    status, model = apiserver.api.request("PATCH", f"{path}?{STRICT}", document, "application/apply-patch+yaml")
    assert status == 201, model
    world = World(model=model)
    world.step()
    world.pull()
    world.serve()
    world.step()
    body = {"apiVersion": model["apiVersion"], "kind": "Model", "metadata": {"name": "b"}, "status": world.status()}
    status, stored = apiserver.api.request("PATCH", f"{path}/status?{STRICT}", body, "application/apply-patch+yaml")
    assert status == 200, stored
    assert stored["status"] == world.status()
    world.model = stored
    world.step(100)
    assert world.writes == 3, "what the server stored is what was planned"
