"""Stored objects on a real API server: columns, scale, status, conditions of several writers, descriptions."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.crds.kube import GROUP, PLURALS, Kube, path_of
from tests.crds.manifests import endpoint, model
from tests.crds.valid_values import values
from tests.crds.walk import nodes, schema_of
from tests.plan.world import A, B, Machine, key, make_endpoint, make_model, observe_endpoint, snapshot
from tests.support.apiserver import ApiServer

from paddock_operator.core.observed import GatewayObserved
from paddock_operator.core.plan import plan_endpoint

Document = dict[str, Any]
Crds = dict[str, Document]


def create(kube: Kube, document: Document, namespace: str) -> Document:
    status, answer = kube.request("POST", path_of(document, namespace), document)
    assert status == 201, answer
    return dict(answer)


def write_status(kube: Kube, document: Document, namespace: str, status: Any) -> Document:
    """Write a status as the operator does; returns what is stored of it."""
    address = path_of(document, namespace, document["metadata"]["name"]) + "/status"
    body = {"apiVersion": document["apiVersion"], "kind": document["kind"], "status": status}
    query = "?fieldManager=paddock&force=true&fieldValidation=Strict"
    code, answer = kube.request("PATCH", address + query, body, "application/apply-patch+yaml")
    assert code == 200, answer
    return dict(answer["status"])


def model_statuses() -> list[Any]:
    served, broken, missing = Machine(make_model()), Machine(make_model(), broken={A}), Machine(make_model())
    missing.error = ("NotFound", False)
    moved = Machine(make_model(updatePolicy={"type": "Track", "interval": "1m"}))
    idle = Machine(make_model(scaling={"minReplicas": 0, "maxReplicas": 1}, license="MIT\nlong"))
    suspended = Machine(make_model(suspend=True))
    machines = [served, broken, missing, moved, idle, suspended]
    found = []
    for machine in machines:
        machine.settle()
        found.append(machine.status)
    moved.digests, moved.now = [B], "2026-01-01T00:10:00Z"
    moved.settle()
    return [*found, moved.status]


def endpoint_statuses() -> list[Any]:
    one = make_endpoint()
    observed = [
        observe_endpoint(one),
        observe_endpoint(one, models={}),
        observe_endpoint(
            one, models={"smollm2": snapshot(ready=False)}, gateway=GatewayObserved("crashed", message="x")
        ),
        observe_endpoint(make_endpoint(models=[{"name": "a"}], auth={"none": {}}), keys=(key("b", "2"),)),
    ]
    return [plan_endpoint(item).status for item in observed]


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_statuses_of_the_plans_are_stored_whole(kube: Kube, namespace: str, kind: str) -> None:
    document = create(kube, model() if kind == "Model" else endpoint(), namespace)
    statuses = model_statuses() if kind == "Model" else endpoint_statuses()
    assert len({entry["reason"] for status in statuses for entry in status["conditions"]}) >= 5
    for status in statuses:
        assert write_status(kube, document, namespace, status) == json.loads(json.dumps(status))


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_any_status_that_fits_the_schema_is_stored_whole(kube: Kube, namespace: str, crds: Crds, kind: str) -> None:
    made = 0

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(status=values(schema_of(crds[kind])["properties"]["status"]))
    def round_trip(status: Document) -> None:
        nonlocal made
        made += 1
        document = copy.deepcopy(model() if kind == "Model" else endpoint())
        document["metadata"]["name"] = f"x{made}"
        create(kube, document, namespace)
        if status:
            assert write_status(kube, document, namespace, status) == {"observedGeneration": -1, **status}

    round_trip()


def test_the_status_of_a_manifest_is_ignored_and_conditions_are_bounded(kube: Kube, namespace: str) -> None:
    created = create(kube, {**model(), "status": {"replicas": 3}}, namespace)
    assert created["status"] == {"observedGeneration": -1}, "whoever waits must not take it for finished"
    condition = {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    stored = write_status(kube, model(), namespace, {"conditions": [{**condition, "message": "x" * 4096}]})
    assert len(stored["conditions"][0]["message"]) == 4096
    address = path_of(model(), namespace, "m") + "/status"
    for wrong in ({**condition, "message": "x" * 4097}, {**condition, "message": "", "lastTransitionTime": "now"}):
        patch = {"status": {"conditions": [wrong]}}
        status, answer = kube.request("PATCH", address, patch, "application/merge-patch+json")
        assert (status, answer["reason"]) == (422, "Invalid")


def rows(server: ApiServer, namespace: str, what: str, *options: str) -> list[list[str]]:
    """kubectl's table, split at two or more spaces (cells may hold one)."""
    lines = server.kubectl("get", what, "-n", namespace, *options).stdout.splitlines()
    starts = [
        index for index, letter in enumerate(lines[0]) if letter != " " and lines[0][index - 1 : index] in ("", " ")
    ]
    ends = [*starts[1:], None]
    return [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]


def test_columns_of_models(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    create(kube, model(), namespace)
    header, cells = rows(apiserver, namespace, "pdm")
    assert header == ["NAME", "READY", "REASON", "DIGEST", "SIZE", "REPLICAS", "AGE"]
    assert cells[:6] == ["m", "", "", "", "", ""]
    served = Machine(make_model())
    served.settle()
    write_status(kube, model(), namespace, served.status)
    _, cells = rows(apiserver, namespace, "models")
    assert cells[:6] == ["m", "True", "Serving", "a" * 12, "98.0 MB", "1"]
    header, cells = rows(apiserver, namespace, "models", "-o", "wide")
    assert header[7:] == ["NAME", "QUANTIZATION", "CONTEXT", "PULLED", "MESSAGE"]
    assert cells[7:10] == ["registry.ollama.ai/library/smollm2:135m", "Q4_1", "2048"]
    assert cells[11]


def test_columns_of_endpoints(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    create(kube, endpoint(), namespace)
    status = plan_endpoint(observe_endpoint(make_endpoint())).status
    write_status(kube, endpoint(), namespace, status)
    header, cells = rows(apiserver, namespace, "pde", "-o", "wide")
    assert header == ["NAME", "READY", "REASON", "MODELS", "URL", "AGE", "AUTH", "KEYS", "REPLICAS", "MESSAGE"]
    assert cells[:5] == ["e", "False", "Starting", "True", status.get("url", "")]
    assert cells[6:8] == ["apiKey", "1"]


def test_categories_list_both(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    create(kube, model(), namespace)
    create(kube, endpoint(), namespace)
    for category in ("paddock", "llm"):
        names = apiserver.kubectl("get", category, "-n", namespace, "-o", "name").stdout.split()
        assert names == ["endpoint.paddock.dev/e", "model.paddock.dev/m"]


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_scale_reads_status_and_writes_replicas(apiserver: ApiServer, kube: Kube, namespace: str, kind: str) -> None:
    document = model() if kind == "Model" else endpoint()
    what, name = f"{PLURALS[kind]}.paddock.dev", document["metadata"]["name"]
    create(kube, document, namespace)
    selector = "paddock.dev/child=x,paddock.dev/component=runner"
    write_status(kube, document, namespace, {"replicas": 1, "readyReplicas": 1, "selector": selector})
    # an autoscaler reads before it writes, and there is nothing to read before replicas is set once
    status, answer = kube.request("GET", path_of(document, namespace, name) + "/scale")
    assert (status, '".spec.replicas" does not exist' in answer["message"]) == (500, True)
    apiserver.kubectl("scale", f"{what}/{name}", "-n", namespace, "--replicas=2")
    status, scale = kube.request("GET", path_of(document, namespace, name) + "/scale")
    assert (status, scale["kind"], scale["spec"]["replicas"]) == (200, "Scale", 2)
    assert scale["status"] == {"replicas": 1, "selector": selector}
    apiserver.kubectl("wait", f"{what}/{name}", "-n", namespace, "--for=jsonpath={.spec.replicas}=2", "--timeout=5s")


def test_scale_is_refused_beside_scaling(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    create(kube, model(scaling={"maxReplicas": 2}), namespace)
    done = apiserver.kubectl("scale", "model/m", "-n", namespace, "--replicas=2", check=False)
    assert done.returncode != 0
    assert "spec.replicas and spec.scaling exclude each other; keep replicas" in done.stderr


def test_an_autoscaler_can_name_a_model(apiserver: ApiServer, kube: Kube, namespace: str) -> None:
    create(kube, model(replicas=1), namespace)
    target = {"apiVersion": "paddock.dev/v1alpha1", "kind": "Model", "name": "m"}
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
    }
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "m"},
        "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 4, "metrics": [metric]},
    }
    apiserver.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(hpa))
    patch = {"spec": {"replicas": 3}}
    address = path_of(model(), namespace, "m") + "/scale"
    status, scale = kube.request("PATCH", address, patch, "application/merge-patch+json")
    assert (status, scale["spec"]["replicas"]) == (200, 3)


def test_two_managers_keep_their_conditions(kube: Kube, namespace: str) -> None:
    create(kube, model(), namespace)
    address = path_of(model(), namespace, "m") + "/status"
    for manager, kind in (("paddock", "Ready"), ("audit", "Reviewed"), ("paddock", "Ready")):
        condition = {"type": kind, "status": "True", "reason": "Known", "message": f"by {manager}"}
        condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
        body = {**model(), "status": {"conditions": [condition]}}
        query = f"{address}?fieldManager={manager}"
        status, answer = kube.request("PATCH", query, body, "application/apply-patch+yaml")
        assert status == 200, answer
    found = {entry["type"]: entry["message"] for entry in answer["status"]["conditions"]}
    assert found == {"Ready": "by paddock", "Reviewed": "by audit"}


def test_the_definitions_are_established_and_structural(kube: Kube) -> None:
    for plural in PLURALS.values():
        address = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.paddock.dev"
        status, crd = kube.request("GET", address)
        conditions = {entry["type"]: entry["status"] for entry in crd["status"]["conditions"]}
        assert (status, conditions) == (200, {"NamesAccepted": "True", "Established": "True"})


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_explain_describes_every_field(apiserver: ApiServer, kube: Kube, crds: Crds, kind: str) -> None:
    status, document = kube.request("GET", f"/openapi/v3{GROUP}")
    assert status == 200
    published = document["components"]["schemas"][f"dev.paddock.v1alpha1.{kind}"]
    for part in ("spec", "status"):
        found = dict(nodes(published["properties"][part], part))
        assert set(found) == set(dict(nodes(schema_of(crds[kind])["properties"][part], part)))
        assert [path for path, node in found.items() if not node.get("description")] == []
    said = apiserver.kubectl("explain", f"{PLURALS[kind]}.spec.replicas", "--api-version=paddock.dev/v1alpha1").stdout
    assert schema_of(crds[kind])["properties"]["spec"]["properties"]["replicas"]["description"][:40] in said
