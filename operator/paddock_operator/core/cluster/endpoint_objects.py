"""The smaller children of an Endpoint: its Secret, its identity with its rights, Service and disruption budget.

Called by `endpoint`. The Secret holds all that a gateway needs to know; its rights are to read that Secret and to write
one ConfigMap, besides the EndpointSlices of its namespace.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from paddock_operator.core.cluster.gateway_pod import CONFIG_FILE
from paddock_operator.core.cluster.labels import (
    CONFIG_HASH,
    CREDENTIAL_HASH,
    ENDPOINT_ID,
    GATEWAY,
    GATEWAY_PORT,
    GATEWAY_ROLE,
    SECRET_TYPE,
    common_labels,
    pod_selector,
)
from paddock_operator.core.cluster.meta import metadata
from paddock_operator.core.cluster.observed import EndpointSeen
from paddock_operator.core.endpoint_spec import Service
from paddock_operator.core.identity import canonical_json, child_name, config_hash, secret_hash
from paddock_operator.core.resources import Endpoint

RBAC = "rbac.authorization.k8s.io/v1"
RBAC_GROUP = "rbac.authorization.k8s.io"
MAX_SECRET_BYTES = 900_000
"""Of a gateway configuration; the API server refuses a Secret above 1 MiB."""


def reports_name(endpoint: Endpoint) -> str:
    """Name of the ConfigMap that the gateway pods write."""
    return f"{child_name(endpoint.ref)}-gateways"


def _object(seen: EndpointSeen, endpoint: Endpoint, kind: str, api_version: str = "v1", name: str = "") -> Any:
    labels = common_labels(endpoint.ref, GATEWAY)
    made = metadata(name or child_name(endpoint.ref), endpoint.ref.namespace, labels, None, seen.endpoint)
    return {"apiVersion": api_version, "kind": kind, "metadata": made}


def secret(seen: EndpointSeen, endpoint: Endpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """The Secret of `config`. Values are base64, as the API server answers them."""
    made = _object(seen, endpoint, "Secret")
    made["metadata"]["annotations"] = {
        CONFIG_HASH: config_hash(config),
        CREDENTIAL_HASH: secret_hash(seen.credential),
        ENDPOINT_ID: f"{endpoint.ref.namespace}/{endpoint.ref.name}",
    }
    data = {CONFIG_FILE: canonical_json(config), "credential": seen.credential.encode()}
    return {
        **made,
        "type": SECRET_TYPE,
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }


def reports(seen: EndpointSeen, endpoint: Endpoint) -> dict[str, Any]:
    """The ConfigMap for the reports of gateway pods: no data, those are the gateways'."""
    return dict(_object(seen, endpoint, "ConfigMap", name=reports_name(endpoint)))


def identity(seen: EndpointSeen, endpoint: Endpoint) -> list[dict[str, Any]]:
    """ServiceAccount, Role and the two RoleBindings of the gateways."""
    name = child_name(endpoint.ref)
    account = {**_object(seen, endpoint, "ServiceAccount"), "automountServiceAccountToken": False}
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get", "watch"]},
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [reports_name(endpoint)],
            "verbs": ["get", "patch"],
        },
    ]
    role = {**_object(seen, endpoint, "Role", RBAC), "rules": rules}
    own = _binding(seen, endpoint, name, "Role", name)
    slices = _binding(seen, endpoint, f"{name}-slices", "ClusterRole", GATEWAY_ROLE)
    return [account, role, own, slices]


def _binding(seen: EndpointSeen, endpoint: Endpoint, name: str, kind: str, role: str) -> dict[str, Any]:
    account = {"kind": "ServiceAccount", "name": child_name(endpoint.ref), "namespace": endpoint.ref.namespace}
    return {
        **_object(seen, endpoint, "RoleBinding", RBAC, name),
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": kind, "name": role},
        "subjects": [account],
    }


def service_port(endpoint: Endpoint) -> int:
    """The port that clients use."""
    return (endpoint.spec.service and endpoint.spec.service.port) or GATEWAY_PORT


def url(endpoint: Endpoint) -> str:
    """Where clients of the cluster connect."""
    scheme = "https" if endpoint.spec.tls else "http"
    return f"{scheme}://{child_name(endpoint.ref)}.{endpoint.ref.namespace}.svc:{service_port(endpoint)}"


def service(seen: EndpointSeen, endpoint: Endpoint) -> dict[str, Any]:
    """The Service that clients connect to."""
    wanted = endpoint.spec.service or Service()
    made = _object(seen, endpoint, "Service")
    if wanted.annotations:
        made["metadata"]["annotations"] = dict(wanted.annotations)
    port: dict[str, Any] = {"name": "http", "port": service_port(endpoint), "targetPort": "http", "protocol": "TCP"}
    if endpoint.spec.tls:
        port["name"] = "https"
    if wanted.node_port:
        port["nodePort"] = wanted.node_port
    spec = {"type": wanted.type or "ClusterIP", "selector": pod_selector(endpoint.ref, GATEWAY), "ports": [port]}
    if wanted.load_balancer_class:
        spec["loadBalancerClass"] = wanted.load_balancer_class
    return {**made, "spec": spec}


def disruption_budget(seen: EndpointSeen, endpoint: Endpoint) -> dict[str, Any]:
    """A node that is emptied takes one gateway after the other; gateways that do not work never block it."""
    return {
        **_object(seen, endpoint, "PodDisruptionBudget", "policy/v1"),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": pod_selector(endpoint.ref, GATEWAY)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
