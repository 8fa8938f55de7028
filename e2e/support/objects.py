"""The manifests of the scenarios."""

from __future__ import annotations

from typing import Any

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILES = "files.paddock-e2e-files.svc.cluster.local"
FILE = "smollm2.gguf"
FILES_PORT = {"name": "files", "port": 8000, "targetPort": 8000}
LATE_PORT = {"name": "late", "port": 8001, "targetPort": 8000}
"""Refuses connections at first; a scenario opens it."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def namespace(name: str) -> dict[str, Any]:
    """A namespace in which only restricted pods may run."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}


def model(name: str = "smollm2", file: str = FILE, sha256: str = SHA256, **spec: Any) -> dict[str, Any]:
    """A Model whose bytes come from the file server of the cluster; small enough for two copies on a small machine."""
    default = {
        "serving": {"contextLength": 1024, "slots": 4},
        "resources": {"cpu": "500m"},
        "parameters": {"num_thread": 1},
    }
    source = {"http": {"url": f"http://{FILES}:8000/{file}", "sha256": sha256}}
    return _object("Model", name, {"source": source, **default, **spec})


def endpoint(name: str = "main", models: tuple[str, ...] = ("smollm2",), **spec: Any) -> dict[str, Any]:
    return _object("Endpoint", name, {"models": [{"name": item} for item in models], **spec})


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "paddock.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def file_server(image: str) -> list[dict[str, Any]]:
    """A pod that serves the files of its volume at :8000 after somebody copied them in, and its Service."""
    serve = ["-m", "http.server", "8000", "--directory", "/files"]
    container = {
        "name": "files",
        "image": image,
        "command": ["/opt/paddock/bin/python", *serve],
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "files", "mountPath": "/files"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "containers": [container],
        "volumes": [{"name": "files", "emptyDir": {}}],
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    labels = {"app": "files"}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "files", "labels": labels}, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "files"},
            "spec": {"selector": labels, "ports": [FILES_PORT, {**LATE_PORT, "targetPort": 9}]},
        },
    ]
