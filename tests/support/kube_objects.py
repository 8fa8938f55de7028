"""Kubernetes objects as an API server shows them, for tests of plans and executors: built, never copied from a cluster.

Times are counted in seconds from T0. A pod is built by `pod` and brought into a state by the functions that follow it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from paddock_operator.core.cluster.observed import Children
from paddock_operator.core.cluster.types import ClusterPlan

Document = dict[str, Any]
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"


def at(seconds: float = 0) -> str:
    """RFC 3339 time, so many seconds after T0."""
    return (EPOCH + timedelta(seconds=int(seconds))).strftime("%Y-%m-%dT%H:%M:%SZ")


def model_document(name: str = "smollm2", namespace: str = "default", generation: int = 1, **spec: Any) -> Document:
    """A Model; `source` is a name of an Ollama registry unless given."""
    return {
        "apiVersion": "paddock.dev/v1alpha1",
        "kind": "Model",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": UID,
            "generation": generation,
            "creationTimestamp": at(),
        },
        "spec": {"source": {"ollama": {"name": "smollm2:135m"}}, **spec},
    }


def born(manifest: Mapping[str, Any], seconds: float = 0, uid: str = "") -> Document:
    """A manifest as it is after its creation: uid, times, field manager and some of the defaults."""
    live = copy.deepcopy(dict(manifest))
    metadata = live["metadata"]
    metadata.setdefault("uid", uid or f"uid-{live['kind'].lower()}-{metadata['name']}")
    metadata.setdefault("creationTimestamp", at(seconds))
    metadata["managedFields"] = [{"manager": "paddock", "operation": "Apply", "time": at(seconds)}]
    if live["kind"] == "Deployment":
        live["spec"].setdefault("minReadySeconds", 0)
        live["spec"]["template"]["spec"].setdefault("dnsPolicy", "ClusterFirst")
    return live


def changed(before: Mapping[str, Any], manifest: Mapping[str, Any], seconds: float) -> Document:
    """A live object after another manifest was applied to it."""
    live = born(manifest, uid=before["metadata"]["uid"])
    live["metadata"]["creationTimestamp"] = before["metadata"]["creationTimestamp"]
    same = all(live.get(key) == before.get(key) for key in ("data", "spec"))
    time = before["metadata"]["managedFields"][0]["time"] if same else at(seconds)
    live["metadata"]["managedFields"][0]["time"] = time
    if "status" in before:
        live["status"] = before["status"]
    return live


def claim(phase: str = "Bound", name: str = "paddock-cache", **spec: Any) -> Document:
    """The cache claim of a namespace."""
    body = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}, **spec}
    metadata = {"name": name, "namespace": "default", "uid": "uid-claim", "creationTimestamp": at()}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {**kind, "metadata": metadata, "spec": body, "status": {"phase": phase}}


def pod(owner: Mapping[str, Any], suffix: str = "abcde", seconds: float = 0) -> Document:
    """A pod of a Job or Deployment (of a ReplicaSet of it), just created: pending, seen by nobody."""
    template = copy.deepcopy(owner["spec"]["template"])
    name = f"{owner['metadata']['name']}-{suffix}"
    kind = "ReplicaSet" if owner["kind"] == "Deployment" else owner["kind"]
    reference = {"kind": kind, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": True}
    metadata = {
        **template["metadata"],
        "name": name,
        "namespace": owner["metadata"]["namespace"],
        "uid": f"uid-pod-{name}",
        "creationTimestamp": at(seconds),
        "ownerReferences": [reference],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    }


def _container(pod: Mapping[str, Any]) -> str:
    return str(pod["spec"]["containers"][0]["name"])


def _set(pod: Mapping[str, Any], phase: str, ready: bool, state: Document, **more: Any) -> Document:
    made = copy.deepcopy(dict(pod))
    entry = {
        "name": _container(pod),
        "ready": ready,
        "restartCount": more.get("restarts", 0),
        "state": state,
        "lastState": more.get("last") or {},
    }
    verdict = "True" if ready else "False"
    made["status"] = {
        "phase": phase,
        "podIP": "10.42.0.7",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": verdict}],
        "containerStatuses": [entry],
    }
    return made


def unschedulable(pod: Mapping[str, Any], message: str, seconds: float = 0) -> Document:
    """No node takes the pod since `seconds`."""
    made = copy.deepcopy(dict(pod))
    entry = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    made["status"] = {"phase": "Pending", "conditions": [{**entry, "lastTransitionTime": at(seconds)}]}
    return made


def waits(pod: Mapping[str, Any], reason: str, message: str = "", **more: Any) -> Document:
    """The container waits (ContainerCreating, ImagePullBackOff, CrashLoopBackOff …)."""
    return _set(pod, "Pending", False, {"waiting": {"reason": reason, "message": message}}, **more)


def runs(pod: Mapping[str, Any], seconds: float = 0, **more: Any) -> Document:
    """The container runs since `seconds` and is not ready."""
    return _set(pod, "Running", False, {"running": {"startedAt": at(seconds)}}, **more)


def is_ready(pod: Mapping[str, Any], seconds: float = 0, **more: Any) -> Document:
    """The container runs and answers its readiness probe."""
    return _set(pod, "Running", True, {"running": {"startedAt": at(seconds)}}, **more)


def terminated(code: int, message: str = "", reason: str = "", **more: Any) -> Document:
    """How a container ended, as `state` or `lastState` has it."""
    words = reason or ("Completed" if code == 0 else "Error")
    return {"terminated": {"exitCode": code, "reason": words, "message": message, "finishedAt": at(), **more}}


def ended(pod: Mapping[str, Any], code: int, message: str = "", reason: str = "", **more: Any) -> Document:
    """The container ended; with OnFailure and a code the kubelet will start it again."""
    phase = "Succeeded" if code == 0 else "Running"
    return _set(pod, phase, False, terminated(code, message, reason), **more)


def evicted(pod: Mapping[str, Any], message: str = "The node was low on resource: memory.") -> Document:
    """The kubelet threw the pod out."""
    made = copy.deepcopy(dict(pod))
    made["status"] = {"phase": "Failed", "reason": "Evicted", "message": message}
    return made


def leaving(pod: Mapping[str, Any], seconds: float = 0) -> Document:
    """The pod was deleted and drains."""
    made = copy.deepcopy(dict(pod))
    made["metadata"]["deletionTimestamp"] = at(seconds)
    return made


def finished(job: Mapping[str, Any], seconds: float = 0, kind: str = "Complete") -> Document:
    """A Job that ended."""
    made = copy.deepcopy(dict(job))
    entry = {"type": kind, "status": "True", "lastTransitionTime": at(seconds)}
    made["status"] = {"conditions": [entry], "completionTime": at(seconds)}
    return made


def replica_failure(deployment: Mapping[str, Any], message: str) -> Document:
    """A Deployment whose ReplicaSet may not make pods."""
    made = copy.deepcopy(dict(deployment))
    entry = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    made["status"] = {"conditions": [entry]}
    return made


def result_message(digest: str, size: int = 98001234, **details: Any) -> str:
    """The termination message of a puller that succeeded."""
    files = [{"role": "model", "digest": "sha256:" + "c" * 64, "size": size}]
    name = "registry.ollama.ai/library/smollm2:135m"
    body = {"digest": digest, "name": name, "size": size, "files": files, "details": {**DETAILS, **details}}
    return json.dumps({"event": "result", "result": body})


def error_message(reason: str, message: str, *, retryable: bool) -> str:
    """The termination message of a puller that failed."""
    return json.dumps({"event": "error", "reason": reason, "message": message, "retryable": retryable})


DETAILS: Mapping[str, Any] = {
    "format": "gguf",
    "family": "llama",
    "parameterSize": "135M",
    "quantization": "Q4_1",
    "architecture": "llama",
    "contextLength": 2048,
    "embeddingLength": 576,
    "blockCount": 30,
    "headCount": 9,
    "headCountKV": 3,
    "keyLength": 64,
    "valueLength": 64,
    "vocabSize": 49152,
    "capabilities": ["completion"],
}


def covers(live: Any, planned: Any) -> bool:
    """Whether everything planned is in the live object: objects by key, lists item by item."""
    if isinstance(planned, Mapping):
        return isinstance(live, Mapping) and all(key in live and covers(live[key], planned[key]) for key in planned)
    if isinstance(planned, list):
        return isinstance(live, list) and len(live) == len(planned) and all(map(covers, live, planned))
    return bool(live == planned)


FIELDS = {
    "Job": "jobs",
    "Deployment": "deployments",
    "ConfigMap": "config_maps",
    "Service": "services",
    "PodDisruptionBudget": "disruption_budgets",
    "Secret": "secrets",
    "ServiceAccount": "service_accounts",
    "Role": "roles",
    "RoleBinding": "role_bindings",
    "NetworkPolicy": "network_policies",
    "Ingress": "ingresses",
    "HTTPRoute": "http_routes",
}
Place = tuple[str, str]
"""Kind and name of a child."""


def as_children(children: Mapping[Place, Document], pods: Mapping[str, Document]) -> Children:
    """What the plans are given of live children."""
    kinds: dict[str, Any] = {name: [] for name in FIELDS.values()}
    for (kind, _), document in children.items():
        kinds[FIELDS[kind]].append(document)
    return Children(pods=tuple(pods.values()), **{name: tuple(items) for name, items in kinds.items()})


def carry_out(
    plan: ClusterPlan,
    children: dict[Place, Document],
    clock: float,
    change: Callable[[Place, Document], Document],
) -> None:
    """Apply and prune as the executor does; `change` makes a live child what a manifest says."""
    wanted = {(item["kind"], item["metadata"]["name"]): dict(item) for item in plan.apply}
    for place, manifest in wanted.items():
        if place not in children:
            children[place] = born(manifest, clock)
        elif not covers(children[place], manifest):
            children[place] = change(place, manifest)
    for place in [place for place in children if place not in wanted and place not in plan.keep]:
        del children[place]


def edited(document: Document, **spec: Any) -> Document:
    """An object with fields of its spec changed; None removes one. The generation counts it."""
    kept = {name: value for name, value in {**document["spec"], **spec}.items() if value is not None}
    metadata = {**document["metadata"], "generation": document["metadata"]["generation"] + 1}
    return {**document, "metadata": metadata, "spec": kept}


def only(children: Mapping[Place, Document], kind: str) -> Document:
    """The only live child of a kind."""
    (found,) = [document for (name, _), document in children.items() if name == kind]
    return found
