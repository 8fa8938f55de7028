"""The rights that the chart gives are those of the table in docs/reference/cluster.md, no more and no less."""

from __future__ import annotations

import re

import pytest
from tests.support.chart_values import INSTALLATIONS
from tests.support.helm import ROOT, Object, render

from paddock_operator.lease import NAME as LEASE_NAME

GROUPS = {
    "models": "paddock.dev",
    "endpoints": "paddock.dev",
    "models/status": "paddock.dev",
    "endpoints/status": "paddock.dev",
    "jobs": "batch",
    "deployments": "apps",
    "replicasets": "apps",
    "roles": "rbac.authorization.k8s.io",
    "rolebindings": "rbac.authorization.k8s.io",
    "clusterroles": "rbac.authorization.k8s.io",
    "networkpolicies": "networking.k8s.io",
    "ingresses": "networking.k8s.io",
    "poddisruptionbudgets": "policy",
    "httproutes": "gateway.networking.k8s.io",
    "endpointslices": "discovery.k8s.io",
    "leases": "coordination.k8s.io",
}
Rights = dict[tuple[str, str], frozenset[str]]


def role(documents: list[Object], name: str, kind: str = "ClusterRole") -> Object:
    (found,) = (item for item in documents if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def rights(found: Object) -> Rights:
    """Verbs by (group, resource); a resource twice in one role is an error."""
    listed = [
        ((group, resource), frozenset(rule["verbs"]))
        for rule in found["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    ]
    assert len(dict(listed)) == len(listed)
    return dict(listed)


def documented(row: str) -> Rights:
    """The cell of one row of the table: `a, b: get list; c: patch`."""
    text = (ROOT / "docs" / "reference" / "cluster.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {row}"))
    cell = line.split("|")[3]
    made: Rights = {}
    for part in cell.split(";"):
        names, _, verbs = part.rpartition(":")
        resources = re.findall(r"[a-z]+(?:/[a-z]+)?", names.replace("`paddock-gateway`", ""))
        if "their `status`" in names:
            resources = ["models/status", "endpoints/status"]
        made |= {(GROUPS.get(name, ""), name): frozenset(re.findall("[a-z]+", verbs)) for name in resources}
    return made


def test_the_operators_rights_are_the_documented_ones() -> None:
    found = role(render(), "paddock-operator")
    assert rights(found) == documented("operator, ClusterRole `paddock-operator`")
    bind = [rule for rule in found["rules"] if rule["verbs"] == ["bind"]]
    assert [rule.get("resourceNames") for rule in bind] == [["paddock-gateway"]]


def test_the_rights_to_secrets_are_the_documented_ones() -> None:
    assert rights(role(render(), "paddock-secrets")) == documented("operator, ClusterRole `paddock-secrets`")


def test_the_gateways_right() -> None:
    found = role(render(), "paddock-gateway")
    assert rights(found) == {("discovery.k8s.io", "endpointslices"): frozenset({"get", "list", "watch"})}
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_no_wildcard_and_no_secret_for_the_whole_cluster() -> None:
    for item in render():
        if item["kind"] in ("ClusterRole", "Role"):
            for rule in item["rules"]:
                words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
                assert "*" not in "".join(words)
                assert not {"escalate", "impersonate"} & set(words)
                assert "secrets" not in rule["resources"] or item["metadata"]["name"] == "paddock-secrets"


def bindings(name: str) -> set[tuple[str, str, str]]:
    """(kind, namespace, role) of everything that is bound to the operator."""
    found = set()
    for item in render(INSTALLATIONS[name]):
        if item["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert item["subjects"] == [
                {"kind": "ServiceAccount", "name": "paddock-operator", "namespace": "paddock-system"}
            ]
            found.add((item["kind"], item["metadata"].get("namespace", ""), item["roleRef"]["name"]))
    return found


LEASE = ("RoleBinding", "paddock-system", "paddock-operator-lease")


def test_the_default_is_the_whole_cluster_without_secrets() -> None:
    assert bindings("default") == {LEASE, ("ClusterRoleBinding", "", "paddock-operator")}


@pytest.mark.parametrize("name", ["namespaced", "everything"])
def test_namespaces_of_the_list_only(name: str) -> None:
    assert bindings(name) == {
        LEASE,
        ("RoleBinding", "chat", "paddock-operator"),
        ("RoleBinding", "lab", "paddock-operator"),
        ("RoleBinding", "chat", "paddock-secrets"),
    }


def test_roles_for_people_are_aggregated() -> None:
    documents = render()
    reads = rights(role(documents, "paddock-view"))
    assert all(verbs == {"get", "list", "watch"} for verbs in reads.values())
    labels = role(documents, "paddock-edit")["metadata"]["labels"]
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in labels
    assert labels["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"


def test_the_lease_is_all_that_the_operator_writes_at_home() -> None:
    found = role(render(), "paddock-operator-lease", "Role")
    assert found["metadata"]["namespace"] == "paddock-system"
    lease: Object = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    named = {"resourceNames": [LEASE_NAME], "verbs": ["get", "patch"]}
    assert found["rules"] == [{**lease, "verbs": ["create"]}, {**lease, **named}]
