"""The operator as an identity with few rights: what it may not read is told, and harms nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kube.kit import Cluster, endpoint, model, operator, path, until

from e2e.cluster import pki
from e2e.cluster.api import write_kubeconfig
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import Ref

USER = "no-secrets"
GROUPS = ["", "apps", "batch", "policy", "networking.k8s.io", "paddock.dev", "coordination.k8s.io"]
RBAC = "rbac.authorization.k8s.io"
RESOURCES = [
    *("models", "models/status", "endpoints", "endpoints/status", "pods", "configmaps", "services", "serviceaccounts"),
    *(
        "events",
        "persistentvolumeclaims",
        "jobs",
        "deployments",
        "poddisruptionbudgets",
        "networkpolicies",
        "ingresses",
    ),
]


@pytest.fixture
def poor(cluster: Cluster, tmp_path: Path) -> Path:
    """A kubeconfig of somebody who may do everything but read Secrets."""
    server = cluster.server
    pki.make_certificate(server.pki, pki.Identity(USER, USER))
    rules = [
        {"apiGroups": GROUPS, "resources": RESOURCES, "verbs": ["*"]},
        {"apiGroups": [RBAC], "resources": ["roles", "rolebindings"], "verbs": ["*"]},
    ]
    version = f"{RBAC}/v1"
    server.api.apply(
        f"/apis/{version}/clusterroles/{USER}",
        {"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": USER}, "rules": rules},
    )
    server.api.apply(
        f"/apis/{version}/clusterrolebindings/{USER}",
        {
            "apiVersion": version,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": USER},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": USER},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": USER}],
        },
    )
    return write_kubeconfig(tmp_path / "kubeconfig", server.url, server.pki, USER)


async def test_secrets_that_may_not_be_read_are_told_and_models_go_on(cluster: Cluster, poor: Path) -> None:
    chat = endpoint(cluster.namespace, "chat", "tiny")
    name = child_name(Ref("Model", cluster.namespace, "tiny"))
    async with operator(poor):
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        await cluster.apply_settled(chat)
        live = cluster.get(path(chat)) or {}
        assert "cannot list resource" in live["status"]["conditions"][0]["message"]
        await cluster.apply_settled(model(cluster.namespace, "tiny", "works all the same"))
        config = cluster.child("configmaps", name) or {}
        assert config["data"]["system"] == "works all the same"


async def test_a_refused_write_is_an_event_and_the_status_is_written(cluster: Cluster, poor: Path) -> None:
    """A quota on ConfigMaps refuses the child; the rest goes on, and the person hears of it."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    where = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas/none"
    cluster.api.apply(where, {**quota, "spec": {"hard": {"count/configmaps": "0"}}})
    only = {"status": {"hard": {"count/configmaps": "0"}, "used": {"count/configmaps": "0"}}}
    cluster.api.request("PATCH", f"{where}/status", only, "application/merge-patch+json")
    async with operator(poor):
        await cluster.apply_settled(model(cluster.namespace, "tiny"))
        events = f"/api/v1/namespaces/{cluster.namespace}/events"
        found = await until("the Event is there", lambda: (cluster.get(events) or {}).get("items"))
        assert found[0]["reason"] == "Refused"
        assert "exceeded quota" in found[0]["message"]
        cluster.api.request("DELETE", where)
        name = child_name(Ref("Model", cluster.namespace, "tiny"))
        await until("it is made at last", lambda: cluster.child("configmaps", name))
