"""When a manifest has to be applied: tables, properties, and what a real API server makes of our kinds of objects."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kube.kit import Cluster

from paddock_operator.core.cluster.diff import as_stored, covers, needs_apply
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.kinds import BY_NAME
from paddock_operator.executors.kube.packed import Packed
from paddock_operator.executors.kube.trim import share, trim

LABELS = {"app.kubernetes.io/managed-by": "paddock", "paddock.dev/child": "c"}
POD = {
    "metadata": {"labels": LABELS},
    "spec": {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 45,
        "containers": [
            {
                "name": "runner",
                "image": "paddock-runner:dev",
                "args": ["serve", "--listen", "[::]:8080"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}],
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {"requests": {"cpu": "1000m", "memory": "1073741824"}, "limits": {"memory": "1.5Gi"}},
                "securityContext": {"capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "m", "mountPath": "/m", "readOnly": True},
                ],
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 2},
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "m", "persistentVolumeClaim": {"claimName": "paddock-cache", "readOnly": True}},
            {"name": "c", "configMap": {"name": "c-1"}},
        ],
        "nodeSelector": {},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    },
}
SELECTOR = {"matchLabels": {"paddock.dev/child": "c"}}
RULES = [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["c"], "verbs": ["get", "watch"]}]


def job_pod() -> dict[str, Any]:
    made = copy.deepcopy(POD)
    made["spec"]["restartPolicy"] = "OnFailure"
    return made


BODIES: dict[str, dict[str, Any]] = {
    "Job": {"spec": {"backoffLimit": 2147483647, "template": job_pod()}},
    "Deployment": {
        "spec": {
            "replicas": 0,
            "selector": SELECTOR,
            "template": POD,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        }
    },
    "ConfigMap": {"data": {"serve.json": '{"a":1}\n'}},
    "Secret": {"type": "paddock.dev/endpoint", "stringData": {"gateway.json": "{}\n", "credential": "x"}},
    "Service": {
        "spec": {
            "clusterIP": "None",
            "selector": LABELS,
            "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
        }
    },
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 1, "selector": SELECTOR}},
    "ServiceAccount": {"automountServiceAccountToken": False},
    "Role": {"rules": RULES},
    "RoleBinding": {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "c"},
        "subjects": [{"kind": "ServiceAccount", "name": "c", "namespace": "NAMESPACE"}],
    },
    "NetworkPolicy": {
        "spec": {
            "podSelector": {"matchLabels": LABELS},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [
                {
                    "to": [{"namespaceSelector": {}}],
                    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
                },
                {
                    "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}],
                    "ports": [{"protocol": "TCP", "port": 443}],
                },
            ],
        }
    },
    "Ingress": {
        "spec": {
            "rules": [
                {
                    "host": "a.example",
                    "http": {
                        "paths": [
                            {
                                "path": "/",
                                "pathType": "Prefix",
                                "backend": {"service": {"name": "c", "port": {"name": "http"}}},
                            }
                        ]
                    },
                }
            ]
        }
    },
}

COMPARED = [kind for kind in BODIES if kind != "Job"]
"""A Job is made once; see `apply.MADE_ONCE`."""


def manifest(kind: str, namespace: str) -> dict[str, Any]:
    """A manifest like ours, with an owner."""
    owner = {
        "apiVersion": "paddock.dev/v1alpha1",
        "kind": "Model",
        "name": "m",
        "uid": "11111111-2222-3333-4444-555555555555",
    }
    owner |= {"controller": True, "blockOwnerDeletion": False}
    meta = {
        "name": f"c-{kind.lower()}",
        "namespace": namespace,
        "labels": LABELS,
        "annotations": {"paddock.dev/x": "1"},
    }
    body = json.loads(json.dumps(BODIES[kind]).replace("NAMESPACE", namespace))
    head = {"apiVersion": BY_NAME[kind].api_version, "kind": kind}
    return {**head, "metadata": {**meta, "ownerReferences": [owner]}, **body}


async def live(client: Client, cluster: Cluster, planned: dict[str, Any]) -> dict[str, Any]:
    kind = BY_NAME[planned["kind"]]
    return trim(kind, await client.get(kind, cluster.namespace, planned["metadata"]["name"]))


@pytest.mark.parametrize("kind", COMPARED)
async def test_what_was_applied_needs_no_apply(client: Client, cluster: Cluster, kind: str) -> None:
    planned = manifest(kind, cluster.namespace)
    answer = trim(BY_NAME[kind], await client.apply(BY_NAME[kind], as_stored(planned)))
    assert not needs_apply(answer, planned)
    assert not needs_apply(await live(client, cluster, planned), planned)


@pytest.mark.parametrize("kind", COMPARED)
async def test_a_foreign_field_is_no_reason_and_an_edit_of_ours_is(client: Client, cluster: Cluster, kind: str) -> None:
    planned = manifest(kind, cluster.namespace)
    made = await client.apply(BY_NAME[kind], as_stored(planned))
    where = BY_NAME[kind].path(cluster.namespace, made["metadata"]["name"])
    for labels, expected in (({"team": "blue"}, False), ({"paddock.dev/child": "other"}, True)):
        cluster.api.request("PATCH", where, {"metadata": {"labels": labels}}, "application/merge-patch+json")
        assert needs_apply(await live(client, cluster, planned), planned) is expected
    answer = trim(BY_NAME[kind], await client.apply(BY_NAME[kind], as_stored(planned)))
    assert not needs_apply(answer, planned)
    assert answer["metadata"]["labels"]["team"] == "blue"


DROPS = [
    ("ConfigMap", lambda found: found["data"].update({"more": "x"})),
    (
        "Deployment",
        lambda found: found["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "C", "value": "x"}),
    ),
    (
        "Deployment",
        lambda found: found["spec"]["template"]["spec"]["containers"][0].update({"imagePullPolicy": "Always"}),
    ),
    ("Service", lambda found: found["spec"]["ports"].append({"name": "more", "port": 9090})),
    ("Role", lambda found: found["rules"].append(RULES[0])),
    ("NetworkPolicy", lambda found: found["spec"]["egress"].pop()),
    ("Deployment", lambda found: found["metadata"]["annotations"].update({"more": "x"})),
    ("Deployment", lambda found: found["spec"]["template"]["spec"]["volumes"].append({"name": "v", "emptyDir": {}})),
]


@pytest.mark.parametrize(("kind", "change"), DROPS)
async def test_a_field_that_is_no_longer_planned_goes(client: Client, cluster: Cluster, kind: str, change: Any) -> None:
    planned = manifest(kind, cluster.namespace)
    before = copy.deepcopy(planned)
    change(before)
    await client.apply(BY_NAME[kind], before)
    assert needs_apply(await live(client, cluster, planned), planned)
    assert not needs_apply(trim(BY_NAME[kind], await client.apply(BY_NAME[kind], as_stored(planned))), planned)


async def test_a_foreign_container_between_ours_is_no_reason(client: Client, cluster: Cluster) -> None:
    planned = manifest("Deployment", cluster.namespace)
    await client.apply(BY_NAME["Deployment"], planned)
    where = BY_NAME["Deployment"].path(cluster.namespace, "c-deployment")
    extra = [{"name": "sidecar", "image": "sidecar"}]
    patch = {"spec": {"template": {"spec": {"containers": extra}}}}
    cluster.api.request("PATCH", where, patch, "application/strategic-merge-patch+json")
    found = await live(client, cluster, planned)
    assert len(found["spec"]["template"]["spec"]["containers"]) == 2
    assert not needs_apply(found, planned)


SAME = [
    ({"limits": {"cpu": "1000m"}}, {"limits": {"cpu": "1"}}),
    ({"limits": {"memory": "1Gi"}}, {"limits": {"memory": "1073741824"}}),
    ({"limits": {"cpu": 2}}, {"limits": {"cpu": "2"}}),
    ({"emptyDir": {"sizeLimit": "65536Ki"}}, {"emptyDir": {"sizeLimit": "64Mi"}}),
    ({"a": {}, "b": [], "c": "", "d": None, "e": False, "f": 0}, {}),
]
DIFFERENT = [
    ({"args": ["1000m"]}, {"args": ["1"]}),
    ({"limits": {"cpu": "1001m"}}, {"limits": {"cpu": "1"}}),
    ({"limits": {"cpu": "odd"}}, {"limits": {"cpu": "1"}}),
    ({"replicas": 1}, {"replicas": True}),
    ({"replicas": 0}, {"replicas": 1}),
    ({"args": ["a", "b"]}, {"args": ["b", "a"]}),
    ({"args": []}, {"args": ["a"]}),
    ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}, {"name": "B", "value": "1"}]}),
    ({"a": {"b": 1}}, {"a": "text"}),
]


@pytest.mark.parametrize(("planned", "found"), SAME)
def test_canonical_values(planned: Any, found: Any) -> None:
    assert covers(found, planned)


@pytest.mark.parametrize(("planned", "found"), DIFFERENT)
def test_real_differences(planned: Any, found: Any) -> None:
    assert not covers(found, planned)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.text("abc", min_size=1, max_size=2), json_values, max_size=4)


@given(objects)
def test_everything_covers_itself_and_sharing_changes_nothing(value: dict[str, Any]) -> None:
    assert covers(value, value)
    assert share(copy.deepcopy(value)) == value
    assert Packed(value) == value
    assert Packed(value) == Packed(dict(reversed(value.items())))
    assert covers(Packed(value), value)
    assert not needs_apply({**value, "metadata": {}}, value)


@given(objects, objects)
def test_more_fields_than_planned_are_no_reason(planned: dict[str, Any], more: dict[str, Any]) -> None:
    assert covers({**more, **planned}, planned)


@given(objects, st.text("xyz", min_size=1, max_size=2), st.integers(1, 9))
def test_a_planned_value_that_is_absent_is_a_reason(found: dict[str, Any], name: str, value: int) -> None:
    assert not covers(found, {**found, name: value})


@given(objects, st.text("xyz", min_size=1, max_size=2))
def test_an_owned_field_that_is_not_planned_is_a_reason(planned: dict[str, Any], name: str) -> None:
    fields = {f"f:{key}": {} for key in (*planned, name)}
    found = {**planned, name: 1, "metadata": {"managedFields": [{"manager": "paddock", "fieldsV1": fields}]}}
    assert needs_apply(found, planned)
    assert not needs_apply(found, {**planned, name: 1})
    foreign = {**found, "metadata": {"managedFields": [{"manager": "kubectl", "fieldsV1": fields}]}}
    assert not needs_apply(foreign, planned)
