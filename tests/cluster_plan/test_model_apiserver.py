"""A real API server accepts every manifest of a Model, keeps it as planned, and a second time changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import kube_objects as kube
from tests.support.apiserver import ApiServer
from tests.support.kube_objects import Document
from tests.support.kube_world import A, World

from paddock_operator.core.cluster.settings import Cache, Settings
from paddock_operator.core.cluster.source_settings import Sources

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


SOURCES = [
    {"claim": {"claimName": "weights", "path": "m.gguf"}},
    {"huggingFace": {"repo": "a/b", "secretRef": {"name": "token"}}},
]


@pytest.mark.parametrize("source", SOURCES, ids=["claim", "huggingFace"])
def test_a_conversion_on_a_real_server(apiserver: ApiServer, namespace: str, source: Document) -> None:
    """Both Jobs, and the status between and after them, are taken and kept as planned."""
    document = kube.model_document("q", namespace, source=source, quantization="Q8_0")
    document["metadata"] = {"name": "q", "namespace": namespace}
    path = f"/apis/paddock.dev/v1alpha1/namespaces/{namespace}/models/q"
    status, model = apiserver.api.request("PATCH", f"{path}?{STRICT}", document, "application/apply-patch+yaml")
    assert status == 201, model
    settings = Settings(sources=Sources(ca_config_map="authorities", rate="1M"))
    world = World(model=model, settings=settings)
    made = [item for item in world.step().apply if item["kind"] == "Job"]
    world.pull(A, quantization="F16", vocabSize=262144, embeddingLength=5376)
    between = world.status()
    made.append(_converter(world))
    world.pull("sha256:" + "e" * 64, quantization="Q8_0")
    for item in made:
        body = {name: value for name, value in item.items() if name != "status"}
        body["metadata"] = {key: body["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
        status, stored = apiserver.api.request("PATCH", _path(body, namespace), body, "application/apply-patch+yaml")
        assert status == 201, stored
        assert kube.covers(stored, body)
    for told in (between, world.status()):
        body = {"apiVersion": model["apiVersion"], "kind": "Model", "metadata": {"name": "q"}, "status": told}
        answer = apiserver.api.request("PATCH", f"{path}/status?{STRICT}", body, "application/apply-patch+yaml")
        assert answer[0] == 200, answer
        assert answer[1]["status"] == told


def _converter(world: World) -> Document:
    jobs = (item for (kind, _), item in world.children.items() if kind == "Job")
    return next(job for job in jobs if job["metadata"]["labels"]["paddock.dev/component"] == "converter")


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
