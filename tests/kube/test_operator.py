"""The operator in-process against a real API server, with small plans: what it writes, and what it never writes."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import aiohttp
import pytest
from tests.kube.kit import STAND_INS, Cluster, endpoint, model, noted, operator, path, plan_model, until

from paddock_operator.core.identity import child_name
from paddock_operator.core.plan_types import Note
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.reconcile import Plans


def child(cluster: Cluster, kind: str, name: str) -> str:
    return child_name(Ref(kind, cluster.namespace, name))


def has_text(cluster: Cluster, name: str, text: str) -> bool:
    config = cluster.child("configmaps", name)
    return config is not None and config["data"]["system"] == text


def versions(cluster: Cluster) -> dict[str, str]:
    """Resource versions of everything that the operator could write."""
    found = {}
    core, ours = f"/api/v1/namespaces/{cluster.namespace}", f"/apis/paddock.dev/v1alpha1/namespaces/{cluster.namespace}"
    for where in (
        f"{core}/configmaps",
        f"{core}/services",
        f"{core}/secrets",
        f"{core}/events",
        f"{core}/serviceaccounts",
    ):
        for item in (cluster.get(where) or {})["items"]:
            found[f"{where}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
    for where in (f"{ours}/models", f"{ours}/endpoints"):
        for item in (cluster.get(where) or {})["items"]:
            found[f"{where}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
    return found


async def test_a_model_gets_children_and_a_status(cluster: Cluster) -> None:
    async with operator(cluster.server.kubeconfig):
        made = await cluster.apply_settled(model(cluster.namespace, "tiny"))
        config = cluster.child("configmaps", child(cluster, "Model", "tiny"))
    assert config is not None
    assert config["data"]["system"] == "hello"
    owner = config["metadata"]["ownerReferences"][0]
    assert (owner["uid"], owner["controller"]) == (made["metadata"]["uid"], True)
    live = cluster.get(path(model(cluster.namespace, "tiny"))) or {}
    assert live["status"]["conditions"][0]["reason"] == "Idle"
    assert "finalizers" not in live["metadata"]
    assert not live["metadata"].get("annotations")


async def test_an_edit_reaches_the_child_quickly(cluster: Cluster) -> None:
    name = child(cluster, "Model", "tiny")
    times = []
    async with operator(cluster.server.kubeconfig):
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        for number in range(5):
            text = f"edit {number}"
            began = time.monotonic()
            cluster.apply(model(cluster.namespace, "tiny", text))
            await until("the edit arrives", partial(has_text, cluster, name, text))
            times.append(time.monotonic() - began)
    assert sorted(times)[2] < 0.5, times


async def test_a_child_that_someone_changes_or_deletes_is_made_right(cluster: Cluster) -> None:
    name = child(cluster, "Model", "tiny")
    where = f"/api/v1/namespaces/{cluster.namespace}/configmaps/{name}"
    async with operator(cluster.server.kubeconfig):
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        cluster.api.request("PATCH", where, {"data": {"system": "tampered"}}, "application/merge-patch+json")
        await until("the text is back", lambda: cluster.child("configmaps", name)["data"]["system"] == "hello")
        old = cluster.get(where)["metadata"]["uid"]
        cluster.api.request("DELETE", where)
        await until("it is made again", lambda: (cluster.get(where) or {}).get("metadata", {}).get("uid", old) != old)


async def test_a_foreign_label_stays_and_causes_no_write(cluster: Cluster) -> None:
    where = f"/api/v1/namespaces/{cluster.namespace}/configmaps/{child(cluster, 'Model', 'tiny')}"
    async with operator(cluster.server.kubeconfig):
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        patch = {"metadata": {"labels": {"team": "blue"}}}
        _, patched = cluster.api.request("PATCH", where, patch, "application/merge-patch+json")
        # The next answer to an edit proves that the operator has seen the label by now.
        await cluster.apply_settled(model(cluster.namespace, "tiny", replicas=1))
        live = cluster.get(where)
    assert live["metadata"]["labels"]["team"] == "blue"
    assert live["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"]


async def test_what_is_no_longer_planned_is_pruned(cluster: Cluster) -> None:
    name = child(cluster, "Model", "tiny")
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "foreign"},
        "spec": {"ports": [{"port": 80}]},
    }
    cluster.api.apply(f"/api/v1/namespaces/{cluster.namespace}/services/foreign", foreign)
    async with operator(cluster.server.kubeconfig):
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        assert cluster.child("services", name) is not None
        await cluster.apply_settled(model(cluster.namespace, "tiny", suspend=True))
        await until("the Service is gone", lambda: cluster.child("services", name) is None)
    assert cluster.child("configmaps", name) is not None
    assert cluster.child("services", "foreign") is not None


async def test_endpoint_names_and_credentials_reach_the_models(cluster: Cluster) -> None:
    name = child(cluster, "Model", "tiny")
    async with operator(cluster.server.kubeconfig):
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        await cluster.apply_settled(endpoint(cluster.namespace, "chat", "tiny"))
        await until("the names arrive", lambda: cluster.child("configmaps", name)["data"]["names"] == '["tiny"]')
        await until("the credential arrives", lambda: "chat" in cluster.child("configmaps", name)["data"]["keys"])
        cluster.delete(endpoint(cluster.namespace, "chat"))
        await until("the names go", lambda: cluster.child("configmaps", name)["data"]["names"] == "[]")


async def test_a_key_secret_reaches_the_endpoint_and_a_broken_one_does_no_harm(cluster: Cluster) -> None:
    secrets = f"/api/v1/namespaces/{cluster.namespace}/secrets"
    name = child(cluster, "Endpoint", "chat")
    for secret, data in (("good", {"sha256": "a" * 64}), ("bad", {"policy": "no json"})):
        body = {"apiVersion": "v1", "kind": "Secret", "type": "paddock.dev/api-key", "stringData": data}
        cluster.api.apply(f"{secrets}/{secret}", {**body, "metadata": {"name": secret}})
    async with operator(cluster.server.kubeconfig):
        await cluster.apply_settled(endpoint(cluster.namespace, "chat", "tiny"))
        first = cluster.get(f"{secrets}/{name}")["data"]
        cluster.api.request("DELETE", f"{secrets}/good")
        await until("the key is out", lambda: not cluster.get(f"{secrets}/{name}")["data"].get("keys"))
        assert cluster.get(f"{secrets}/{name}")["data"]["credential"] == first["credential"]
    assert cluster.get(f"{secrets}/bad") is not None


async def test_a_restart_writes_nothing(cluster: Cluster) -> None:
    async with operator(cluster.server.kubeconfig):
        for number in range(5):
            await cluster.apply_settled(model(cluster.namespace, f"tiny-{number}"))
        await cluster.apply_settled(endpoint(cluster.namespace, "chat", "tiny-1", "tiny-2"))
        await until(
            "names", lambda: "chat" in cluster.child("configmaps", child(cluster, "Model", "tiny-1"))["data"]["keys"]
        )
        await until(
            "names", lambda: "chat" in cluster.child("configmaps", child(cluster, "Model", "tiny-2"))["data"]["keys"]
        )
        await asyncio.sleep(1.0)  # dependants are rung within 0.3 s; silence has no event to wait for
    before = await asyncio.to_thread(versions, cluster)
    async with operator(cluster.server.kubeconfig) as app:
        await until("all was looked at", lambda: app.controller.queue.depth == 0 and app.controller.queue.busy == 0)
        await asyncio.sleep(1.0)
        assert await asyncio.to_thread(versions, cluster) == before
        written = [sample for metric in app._metrics.registry.collect() for sample in metric.samples]
        verbs = {sample.labels["verb"] for sample in written if sample.name == "paddock_kube_requests_total"}
    assert verbs <= {"get", "list", "watch"}


async def test_a_poisoned_object_holds_up_nobody(cluster: Cluster) -> None:
    async with operator(cluster.server.kubeconfig, workers=1) as app:
        cluster.apply(model(cluster.namespace, "bad", "poison"))
        for number in range(3):
            await cluster.apply_settled(model(cluster.namespace, f"good-{number}"))
        assert app._scrape().count(b'paddock_reconcile_total{kind="Model",result="error"}') == 1
        await cluster.apply_settled(model(cluster.namespace, "bad", "cured"))


async def test_the_shared_objects_go_with_the_last_model(cluster: Cluster) -> None:
    only = model(cluster.namespace, "tiny")
    async with operator(cluster.server.kubeconfig):
        await cluster.apply_settled(only)
        assert cluster.child("serviceaccounts", "paddock-runner") is not None
        cluster.delete(only)
        await until("it goes", lambda: cluster.child("serviceaccounts", "paddock-runner") is None)


async def test_one_event_for_one_transition(cluster: Cluster) -> None:
    told = noted(plan_model, Note("Crashed", "Ready is False: boom"), Note("Loading", "Ready is False: on the way"))
    plans = Plans(told, STAND_INS.endpoint, STAND_INS.namespace)
    async with operator(cluster.server.kubeconfig, plans):
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        await cluster.apply_settled(model(cluster.namespace, "tiny", "again"))
        events = f"/api/v1/namespaces/{cluster.namespace}/events"
        found: Any = await until("the Event is there", lambda: cluster.get(events)["items"])
    assert [(item["reason"], item["type"], item["count"]) for item in found] == [("Crashed", "Warning", 1)]
    assert found[0]["involvedObject"]["name"] == "tiny"


async def test_it_survives_the_api_server(cluster: Cluster) -> None:
    name = child(cluster, "Model", "tiny")
    async with operator(cluster.server.kubeconfig) as app:
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        cluster.server.kill_server()
        await asyncio.sleep(1.5)  # the operator meets the outage
        # Not in a thread: the server dies with the thread that started it.
        cluster.server.start_server()
        cluster.apply(model(cluster.namespace, "tiny", "after the outage"))
        changed = lambda: cluster.child("configmaps", name)["data"]["system"] == "after the outage"  # noqa: E731
        await until("it works again", changed, 45)
        assert b"paddock_watch_restarts_total" in app._scrape()


async def test_listed_namespaces_only(cluster: Cluster) -> None:
    async with operator(cluster.server.kubeconfig, namespaces=(cluster.namespace,)) as app:
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        assert {item["metadata"]["namespace"] for item in app._declared()} == {cluster.namespace}


@pytest.mark.parametrize("port", [0, 1])
async def test_ports_answer(cluster: Cluster, port: int) -> None:
    async with operator(cluster.server.kubeconfig) as app, aiohttp.ClientSession() as session:
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        where = ("/healthz", "/metrics")[port]
        async with session.get(f"http://127.0.0.1:{app.ports.ports[port]}{where}") as answer:
            text = await answer.text()
    assert answer.status == 200
    assert ("ok\n", 'paddock_objects{condition="Ready",kind="Model",status="True"}')[port] in text
