"""Small plans, objects and an operator in-process, for the tests of the cluster executor."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.apiserver import ApiServer

from paddock_operator.app import App
from paddock_operator.core.cluster.labels import (
    CHILD,
    CREDENTIAL_HASH,
    ENDPOINT_ID,
    NAMESPACE_CHILD,
    SECRET_TYPE,
    common_labels,
)
from paddock_operator.core.cluster.meta import metadata
from paddock_operator.core.cluster.observed import EndpointSeen, ModelSeen, NamespaceSeen
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.cluster.types import ClusterPlan
from paddock_operator.core.identity import child_name
from paddock_operator.core.plan_types import Note
from paddock_operator.core.resources import reference
from paddock_operator.executors.kube.login import Login
from paddock_operator.executors.kube.reconcile import Plans

API = "paddock.dev/v1alpha1"
DEADLINE = 20.0


def model(namespace: str, name: str, system: str = "hello", **spec: Any) -> dict[str, Any]:
    """A Model manifest."""
    source = {"ollama": {"name": "tiny:latest"}}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": API, "kind": "Model", "metadata": meta, "spec": {"source": source, "system": system, **spec}}


def endpoint(namespace: str, name: str, *models: str) -> dict[str, Any]:
    """An Endpoint manifest."""
    meta = {"name": name, "namespace": namespace}
    spec = {"models": [{"name": item} for item in models]}
    return {"apiVersion": API, "kind": "Endpoint", "metadata": meta, "spec": spec}


def path(manifest: Mapping[str, Any]) -> str:
    """The URL path of a Model or Endpoint."""
    meta = manifest["metadata"]
    return f"/apis/{API}/namespaces/{meta['namespace']}/{manifest['kind'].lower()}s/{meta['name']}"


def plan_model(seen: ModelSeen) -> ClusterPlan:
    """A ConfigMap with the system text, names and credentials, and a Service that goes when the Model is suspended."""
    document = seen.model
    ref, spec = reference(document), document["spec"]
    if spec.get("system") == "poison":
        raise ValueError("this object cannot be planned")
    name, labels = child_name(ref), common_labels(ref, "runner")
    data = {"system": spec.get("system", ""), "names": json.dumps(seen.names), "keys": json.dumps(seen.credentials)}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name, ref.namespace, labels, None, document),
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata(name, ref.namespace, labels, None, document)}
    service["spec"] = {"clusterIP": "None", "selector": labels, "ports": [{"name": "http", "port": 8080}]}
    apply = [{**config, "data": data}] + ([] if spec.get("suspend") else [service])
    notes = (Note("Refused", f"Ready is False: {seen.refused}"),) if seen.refused else ()
    status = _status(document, "Suspended" if spec.get("suspend") else "Idle")
    return ClusterPlan(tuple(apply), status=status, notes=notes)


def plan_endpoint(seen: EndpointSeen) -> ClusterPlan:
    """A Secret with the credential, and a status that counts keys and Models."""
    document = seen.endpoint
    ref = reference(document)
    marks = {ENDPOINT_ID: f"{ref.namespace}/{ref.name}", CREDENTIAL_HASH: seen.credential[:8]}
    meta = metadata(child_name(ref), ref.namespace, common_labels(ref, "gateway"), marks, document)
    secret = {"apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE, "metadata": meta}
    secret["stringData"] = {"credential": seen.credential, "keys": ",".join(sorted(key.id for key in seen.keys))}
    status = _status(document, "GatewayReady", f"{len(seen.models)} Models, {seen.keys_problem or 'no problem'}")
    return ClusterPlan((secret,), status=status)


def plan_namespace(seen: NamespaceSeen) -> ClusterPlan:
    """One ServiceAccount as long as there is a Model or Endpoint."""
    if not (seen.models or seen.endpoints):
        return ClusterPlan(())
    labels = {"app.kubernetes.io/managed-by": "paddock", CHILD: NAMESPACE_CHILD}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": False}
    return ClusterPlan(({**account, "metadata": metadata("paddock-runner", seen.namespace, labels)},))


def _status(document: Mapping[str, Any], reason: str, message: str = "as planned") -> dict[str, Any]:
    generation = document["metadata"]["generation"]
    condition = {"type": "Ready", "status": "True", "reason": reason, "message": message}
    condition |= {"observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {"observedGeneration": generation, "conditions": [condition]}


def noted(plan: Callable[[ModelSeen], ClusterPlan], *notes: Note) -> Callable[[ModelSeen], ClusterPlan]:
    """A plan that also says something."""

    def with_notes(seen: ModelSeen) -> ClusterPlan:
        made = plan(seen)
        return ClusterPlan(made.apply, status=made.status, notes=notes)

    return with_notes


STAND_INS = Plans(plan_model, plan_endpoint, plan_namespace)


@contextlib.asynccontextmanager
async def operator(
    kubeconfig: Path, plans: Plans = STAND_INS, stop: bool = True, **settings: Any
) -> AsyncIterator[App]:
    """A running operator on free ports; `settings` are fields of Settings."""
    chosen = Settings(**{"metrics_port": 0, "health_port": 0, **settings})
    app = await App.make(Login(str(kubeconfig)), chosen, plans)
    running = asyncio.create_task(app.run())
    try:
        ready = asyncio.create_task(app.ready.wait())
        await asyncio.wait([running, ready], timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            running.result()
        yield app
    finally:
        app.stopping.set()
        if stop:
            await asyncio.wait_for(running, 10)


async def until(what: str, condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Wait for a truthy answer of `condition`, which may call the API server; returns it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = await asyncio.to_thread(condition)
        if found:
            return found
        if loop.time() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        await asyncio.sleep(0.02)


class Cluster:
    """What a test asks the API server for, as its administrator."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace, self.api = server, namespace, server.api

    def get(self, where: str) -> dict[str, Any] | None:
        """An object by its path, None if it does not exist."""
        status, body = self.api.request("GET", where)
        return body if status == 200 else None

    def child(self, plural: str, name: str) -> dict[str, Any] | None:
        """A core object of the namespace."""
        return self.get(f"/api/v1/namespaces/{self.namespace}/{plural}/{name}")

    def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Apply a Model or Endpoint as a user."""
        return dict(self.api.apply(path(manifest), manifest))

    def delete(self, manifest: Mapping[str, Any]) -> None:
        """Delete a Model or Endpoint."""
        self.api.request("DELETE", path(manifest))

    def settled(self, manifest: Mapping[str, Any]) -> bool:
        """Whether the status speaks of the present generation."""
        live = self.get(path(manifest)) or {"metadata": {"generation": None}}
        seen = live.get("status", {}).get("observedGeneration")
        return seen is not None and bool(seen == live["metadata"]["generation"])

    async def apply_settled(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Apply a Model or Endpoint and wait until the operator has answered."""
        made = await asyncio.to_thread(self.apply, manifest)
        await until(f"{manifest['metadata']['name']} is settled", lambda: self.settled(manifest))
        return made
