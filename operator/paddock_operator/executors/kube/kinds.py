"""The kinds that the operator reads and writes: how their paths are spelled, and which children they are.

Read by every module of this package. Discovery is never asked: this table is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """`field` is the kind's place in `core.cluster.observed.Children`, empty for what is no child."""

    name: str
    api_version: str
    plural: str
    field: str = ""

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """The URL path of an object (with `name`) or a collection; without `namespace`, of all namespaces."""
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [root, self.api_version]
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, sub) if part]
        return "/".join(parts)


MODEL = Kind("Model", "paddock.dev/v1alpha1", "models")
ENDPOINT = Kind("Endpoint", "paddock.dev/v1alpha1", "endpoints")
POD = Kind("Pod", "v1", "pods")
CLAIM = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
SECRET = Kind("Secret", "v1", "secrets", "secrets")
EVENT = Kind("Event", "v1", "events")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
JOB = Kind("Job", "batch/v1", "jobs", "jobs")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments", "deployments")
CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps", "config_maps")
HTTP_ROUTE = Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes", "http_routes")

CHILD_KINDS = (
    JOB,
    DEPLOYMENT,
    CONFIG_MAP,
    Kind("Service", "v1", "services", "services"),
    Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets", "disruption_budgets"),
    Kind("ServiceAccount", "v1", "serviceaccounts", "service_accounts"),
    Kind("Role", "rbac.authorization.k8s.io/v1", "roles", "roles"),
    Kind("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings", "role_bindings"),
    Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", "network_policies"),
    Kind("Ingress", "networking.k8s.io/v1", "ingresses", "ingresses"),
)
"""What may be pruned, besides Secrets of Endpoints and HTTPRoutes. Never claims, never key Secrets."""

BY_NAME = {kind.name: kind for kind in (*CHILD_KINDS, MODEL, ENDPOINT, POD, CLAIM, SECRET, EVENT, LEASE, HTTP_ROUTE)}
