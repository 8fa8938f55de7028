"""The chart on a real API server: accepted strictly, and the operator's account may do what it needs and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.support.apiserver import ApiServer
from tests.support.helm import CHART, SYSTEM, helm, render

OPERATOR = f"system:serviceaccount:{SYSTEM}:paddock-operator"


VALUES = {"endpointNamespaces": ["chat"], "crds": {"enabled": False}}
ROLES = ("paddock-edit", "paddock-gateway", "paddock-operator", "paddock-secrets", "paddock-view")


@pytest.fixture(scope="module")
def installed(apiserver: ApiServer) -> Iterator[ApiServer]:
    """The default installation by Helm, with Secrets allowed in namespace `chat`, in restricted namespaces."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in (SYSTEM, "chat"):
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": label}}
        apiserver.kubectl("apply", "-f", "-", input=json.dumps(space))
    arguments = ["paddock", str(CHART), "-n", SYSTEM, "-f", "-"]
    said = helm("install", *arguments, stdin=json.dumps(VALUES), kubeconfig=apiserver.kubeconfig)
    assert "paddock key create laptop --namespace models" in said
    yield apiserver
    if "paddock" in helm("list", "-q", "-n", SYSTEM, kubeconfig=apiserver.kubeconfig):
        helm("uninstall", "paddock", "-n", SYSTEM, kubeconfig=apiserver.kubeconfig)
    apiserver.kubectl("delete", "clusterrole", "paddock-gateway", "--ignore-not-found")


def test_every_object_passes_strict_validation(installed: ApiServer) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": render(VALUES)})
    apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-"]
    done = installed.kubectl(*apply, input=text)
    assert done.stdout.count("serverside-applied") == len(render(VALUES))
    assert "would violate" not in done.stderr


def can(server: ApiServer, verb: str, resource: str, namespace: str) -> bool:
    more: list[str] = []
    if resource.endswith("/status"):
        resource, more = resource.removesuffix("/status"), ["--subresource=status"]
    done = server.kubectl("auth", "can-i", verb, resource, *more, "-n", namespace, f"--as={OPERATOR}", check=False)
    return done.stdout.strip() == "yes"


@pytest.mark.parametrize(
    ("verb", "resource", "namespace", "may"),
    [
        ("list", "models.paddock.dev", "anywhere", True),
        ("patch", "models.paddock.dev/status", "anywhere", True),
        ("patch", "models.paddock.dev", "anywhere", False),
        ("get", "secrets", "chat", True),
        ("get", "secrets", SYSTEM, False),
        ("create", "pods", "chat", False),
        ("delete", "persistentvolumeclaims", "chat", False),
        ("create", "leases.coordination.k8s.io", SYSTEM, True),
        ("patch", "leases.coordination.k8s.io/paddock-operator", SYSTEM, True),
        ("patch", "leases.coordination.k8s.io/another", SYSTEM, False),
        ("create", "leases.coordination.k8s.io", "chat", False),
    ],
)
def test_what_the_operator_may(installed: ApiServer, verb: str, resource: str, namespace: str, may: bool) -> None:
    assert can(installed, verb, resource, namespace) is may


def binding(role: str) -> str:
    subject = {"kind": "ServiceAccount", "name": "gateway", "namespace": "chat"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    body = {"kind": "RoleBinding", "metadata": {"name": "x", "namespace": "chat"}, "subjects": [subject]}
    return json.dumps({"apiVersion": "rbac.authorization.k8s.io/v1", **body, "roleRef": reference})


def gateway_role(verbs: list[str]) -> str:
    rules = [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["c"], "verbs": verbs}]
    body = {"kind": "Role", "metadata": {"name": "x", "namespace": "chat"}, "rules": rules}
    return json.dumps({"apiVersion": "rbac.authorization.k8s.io/v1", **body})


@pytest.mark.parametrize(
    ("manifest", "may"),
    [
        (binding("paddock-gateway"), True),
        (binding("cluster-admin"), False),
        (gateway_role(["get", "watch"]), True),
        (gateway_role(["deletecollection"]), False),
    ],
    ids=["its own role", "another role", "a role within its rights", "a role beyond its rights"],
)
def test_what_the_operator_may_grant(installed: ApiServer, manifest: str, may: bool) -> None:
    apply = ["apply", "--server-side", "--dry-run=server", f"--as={OPERATOR}", "-f", "-"]
    done = installed.kubectl(*apply, input=manifest, check=False)
    assert (done.returncode == 0) is may, done.stderr


def test_a_secret_bound_role_needs_the_binding(installed: ApiServer) -> None:
    """Where no Endpoint is expected, the operator cannot give a gateway the right to a Secret either."""
    manifest = gateway_role(["get"]).replace('"chat"', '"default"')
    apply = ["apply", "--server-side", "--dry-run=server", f"--as={OPERATOR}", "-f", "-"]
    done = installed.kubectl(*apply, input=manifest, check=False)
    assert "is attempting to grant RBAC permissions not currently held" in done.stderr


def test_uninstall_leaves_what_running_pods_need(installed: ApiServer) -> None:
    """The last test of this module: the gateway's role and the CRDs stay, everything else of the release goes."""
    helm("uninstall", "paddock", "-n", SYSTEM, kubeconfig=installed.kubeconfig)
    names = installed.kubectl("get", "clusterroles", *ROLES, "--ignore-not-found", "-o", "name").stdout.split()
    assert names == ["clusterrole.rbac.authorization.k8s.io/paddock-gateway"]
    installed.kubectl("get", "crd", "models.paddock.dev", "endpoints.paddock.dev")
    assert installed.kubectl("get", "deployments", "-n", SYSTEM, "-o", "name").stdout == ""
