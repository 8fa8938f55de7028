"""The Deployment of an Endpoint's gateways. Called by `endpoint`.

The gateway's configuration is never in the pod template: keys, routes and limits change without a new pod.
"""

from __future__ import annotations

from typing import Any

from paddock_operator.core.cluster.labels import CONFIG_PATH, GATEWAY, GATEWAY_PORT, common_labels, pod_selector
from paddock_operator.core.cluster.meta import GRACE_SECONDS, container, metadata, pod_spec, serving
from paddock_operator.core.cluster.observed import EndpointSeen
from paddock_operator.core.identity import child_name
from paddock_operator.core.plan_endpoint import DRAIN_SECONDS
from paddock_operator.core.resources import Endpoint

CONFIG_FILE = "gateway.json"
TLS_PATH = "/etc/paddock-tls"
TLS_FILES = ("tls.crt", "tls.key")
START_SECONDS = 60
PROGRESS_SECONDS = 600
# bodies are held in memory: 64 requests of 4 MiB each by default, beside the program itself
RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
READ_ONLY_MODE = 0o440


def asked(endpoint: Endpoint) -> dict[str, Any]:
    """What of the spec enters the pod template, for `rolls.roll`."""
    return {"tls": endpoint.spec.tls.secret_name if endpoint.spec.tls else None}


def gateway_deployment(seen: EndpointSeen, endpoint: Endpoint, replicas: int) -> dict[str, Any]:
    """The complete Deployment; a new gateway is ready before an old one goes."""
    labels = common_labels(endpoint.ref, GATEWAY)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(child_name(endpoint.ref), endpoint.ref.namespace, labels, None, seen.endpoint),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": PROGRESS_SECONDS,
            "selector": {"matchLabels": pod_selector(endpoint.ref, GATEWAY)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": _pod(seen, endpoint)},
        },
    }


def _pod(seen: EndpointSeen, endpoint: Endpoint) -> dict[str, Any]:
    return pod_spec(
        child_name(endpoint.ref),
        seen.settings.images,
        [_gateway(seen, endpoint)],
        _volumes(endpoint),
        token=True,
        terminationGracePeriodSeconds=DRAIN_SECONDS + GRACE_SECONDS,
        topologySpreadConstraints=[_apart(endpoint)],
    )


def _gateway(seen: EndpointSeen, endpoint: Endpoint) -> dict[str, Any]:
    images, tls = seen.settings.images, endpoint.spec.tls is not None
    secret = f"{endpoint.ref.namespace}/{child_name(endpoint.ref)}"
    args = ["gateway", "--config", f"{CONFIG_PATH}/{CONFIG_FILE}", "--listen", f"[::]:{GATEWAY_PORT}"]
    args += ["--secret", secret, *(["--tls", TLS_PATH] if tls else [])]
    mounts = [{"name": "config", "mountPath": CONFIG_PATH, "readOnly": True}]
    if tls:
        mounts.append({"name": "tls", "mountPath": TLS_PATH, "readOnly": True})
    made = container(
        GATEWAY,
        images.gateway,
        images,
        args,
        RESOURCES,
        mounts=mounts,
        ports=[{"name": "http", "containerPort": GATEWAY_PORT, "protocol": "TCP"}],
        **serving("http", START_SECONDS, "HTTPS" if tls else "HTTP"),
    )
    return {**made, "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}


def _volumes(endpoint: Endpoint) -> list[dict[str, Any]]:
    volumes = [_secret_volume("config", child_name(endpoint.ref), (CONFIG_FILE,))]
    if endpoint.spec.tls:
        volumes.append(_secret_volume("tls", endpoint.spec.tls.secret_name, TLS_FILES))
    return volumes


def _secret_volume(name: str, secret: str, files: tuple[str, ...]) -> dict[str, Any]:
    items = [{"key": file, "path": file} for file in files]
    return {"name": name, "secret": {"secretName": secret, "defaultMode": READ_ONLY_MODE, "items": items}}


def _apart(endpoint: Endpoint) -> dict[str, Any]:
    """On different nodes where there are some."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": pod_selector(endpoint.ref, GATEWAY)},
    }
