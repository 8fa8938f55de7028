"""What may stand in front of an Endpoint's Service: an Ingress, and an HTTPRoute of the Gateway API.

Called by `endpoint`. Both are optional, and neither knows what an Endpoint is.
"""

from __future__ import annotations

from typing import Any

from paddock_operator.core.cluster.endpoint_objects import service_port
from paddock_operator.core.cluster.labels import GATEWAY, common_labels
from paddock_operator.core.cluster.meta import metadata
from paddock_operator.core.cluster.observed import EndpointSeen
from paddock_operator.core.endpoint_spec import HttpRoute, Ingress
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import Endpoint
from paddock_operator.core.wire import to_wire

ROUTE_API = "gateway.networking.k8s.io/v1"


def fronts(seen: EndpointSeen, endpoint: Endpoint) -> list[dict[str, Any]]:
    """The Ingress and the HTTPRoute that spec asks for; the latter only where the cluster knows the kind."""
    made = []
    if endpoint.spec.ingress:
        made.append(_ingress(seen, endpoint, endpoint.spec.ingress))
    if endpoint.spec.http_route and seen.has_http_route:
        made.append(_http_route(seen, endpoint, endpoint.spec.http_route))
    return made


def _ingress(seen: EndpointSeen, endpoint: Endpoint, wanted: Ingress) -> dict[str, Any]:
    name, labels = child_name(endpoint.ref), common_labels(endpoint.ref, GATEWAY)
    backend = {"service": {"name": name, "port": {"number": service_port(endpoint)}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    spec: dict[str, Any] = {"rules": [{"host": wanted.host, "http": {"paths": paths}}]}
    if wanted.class_name:
        spec["ingressClassName"] = wanted.class_name
    if wanted.tls_secret_name:
        spec["tls"] = [{"hosts": [wanted.host], "secretName": wanted.tls_secret_name}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": metadata(name, endpoint.ref.namespace, labels, wanted.annotations, seen.endpoint),
        "spec": spec,
    }


def _http_route(seen: EndpointSeen, endpoint: Endpoint, wanted: HttpRoute) -> dict[str, Any]:
    name, labels = child_name(endpoint.ref), common_labels(endpoint.ref, GATEWAY)
    spec = {
        "parentRefs": [to_wire(parent) for parent in wanted.parent_refs],
        "rules": [{"backendRefs": [{"name": name, "port": service_port(endpoint)}]}],
    }
    if wanted.hostnames:
        spec["hostnames"] = list(wanted.hostnames)
    return {
        "apiVersion": ROUTE_API,
        "kind": "HTTPRoute",
        "metadata": metadata(name, endpoint.ref.namespace, labels, None, seen.endpoint),
        "spec": spec,
    }
