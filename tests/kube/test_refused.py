"""Manifests that a real API server refuses: the condition says so in its words, and goes when the cause is gone."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kube.kit import Cluster, endpoint, model, operator, path, until

from paddock_operator.core.cluster.endpoint import plan_cluster_endpoint
from paddock_operator.core.cluster.model import plan_cluster_model
from paddock_operator.core.cluster.namespace import plan_namespace
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.failures import Failures
from paddock_operator.executors.kube.reconcile import Plans

REAL = Plans(plan_cluster_model, plan_cluster_endpoint, plan_namespace)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"


def ready(cluster: Cluster, manifest: dict[str, Any]) -> dict[str, Any]:
    live = cluster.get(path(manifest)) or {}
    found = (live.get("status") or {}).get("conditions") or ()
    return next((entry for entry in found if entry["type"] == "Ready"), {})


async def refused(cluster: Cluster, manifest: dict[str, Any]) -> str:
    """The message of the condition as soon as its reason is Refused."""
    await until("it is refused", lambda: ready(cluster, manifest).get("reason") == "Refused")
    found = ready(cluster, manifest)
    assert found["status"] == "False"
    return str(found["message"])


def jobs(cluster: Cluster) -> list[dict[str, Any]]:
    return list((cluster.get(f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs") or {})["items"])


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"nodeAffinity": "nonsense"}, "affinity.nodeAffinity: expected map, got &{nonsense}"),
    ({"nonsense": {}}, "affinity.nonsense: field not declared in schema"),
    ({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}, "must have at least one node selector term"),
]


@pytest.mark.parametrize(("affinity", "words"), NONSENSE, ids=["type", "unknown", "value"])
async def test_nonsense_in_placement_is_named_and_its_fix_is_enough(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, affinity: dict[str, Any], words: str
) -> None:
    bad = model(cluster.namespace, "tiny", placement={"affinity": affinity})
    async with operator(cluster.server.kubeconfig, REAL):
        cluster.apply(bad)
        message = await refused(cluster, bad)
        assert message.startswith("the API server refuses Job tiny-")
        assert words in message
        services = f"/api/v1/namespaces/{cluster.namespace}/services"
        assert (cluster.get(services) or {})["items"], "what is sound is made all the same"
        version = (cluster.get(path(bad)) or {})["metadata"]["resourceVersion"]
        await until("it is tried again", lambda: caplog.text.count("refuses Job") >= 3)
        assert (cluster.get(path(bad)) or {})["metadata"]["resourceVersion"] == version
        assert not jobs(cluster)
        cluster.apply(model(cluster.namespace, "tiny", placement={}))
        await until("it goes on", lambda: ready(cluster, bad).get("reason") == "Resolving")
        assert jobs(cluster)
        events = (cluster.get(f"/api/v1/namespaces/{cluster.namespace}/events") or {})["items"]
    assert [item["reason"] for item in events].count("Refused") == 1
    assert "ApplyFailed" not in [item["reason"] for item in events]


def forbid(cluster: Cluster, group: str, plural: str) -> None:
    """An admission policy that lets nobody make objects of a kind in the namespace of the test."""
    name = f"no-{plural}-{cluster.namespace}"
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [plural]}
    deny = {"expression": "false", "message": f"no {plural} today", "reason": "Forbidden"}
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    here = {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}}
    policy = {"matchConstraints": {"resourceRules": [rule]}, "validations": [deny]}
    binding = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": here},
    }
    cluster.api.apply(f"{POLICIES}ies/{name}", {**kind, "kind": "ValidatingAdmissionPolicy", "spec": policy})
    cluster.api.apply(
        f"{POLICIES}ybindings/{name}", {**kind, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding}
    )


def allow(cluster: Cluster, plural: str) -> None:
    for part in ("ybindings", "ies"):
        cluster.api.request("DELETE", f"{POLICIES}{part}/no-{plural}-{cluster.namespace}")


async def in_force(cluster: Cluster, group: str, plural: str, manifest: dict[str, Any]) -> None:
    """Wait until the policy acts: the API server takes it up a moment after it was made."""
    prefix = f"/apis/{group}/v1" if group else "/api/v1"
    where = f"{prefix}/namespaces/{cluster.namespace}/{plural}?dryRun=All"
    await until("the policy is in force", lambda: cluster.api.request("POST", where, manifest)[0] == 403)


async def test_a_policy_against_a_child_of_an_endpoint(cluster: Cluster) -> None:
    rules = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"}}
    forbid(cluster, "networking.k8s.io", "networkpolicies")
    wanted = endpoint(cluster.namespace, "chat", "tiny")
    try:
        body = {**rules, "spec": {"podSelector": {}}}
        await in_force(cluster, "networking.k8s.io", "networkpolicies", body)
        async with operator(cluster.server.kubeconfig, REAL):
            cluster.apply(wanted)
            message = await refused(cluster, wanted)
            assert message.startswith("the API server refuses NetworkPolicy chat-")
            assert "no networkpolicies today" in message
            secrets = (cluster.get(f"/api/v1/namespaces/{cluster.namespace}/secrets") or {})["items"]
            assert [item["type"] for item in secrets] == ["paddock.dev/endpoint"]
            allow(cluster, "networkpolicies")
            await until("it goes on by itself", lambda: ready(cluster, wanted).get("reason") == "Starting", 30)
    finally:
        allow(cluster, "networkpolicies")


async def test_a_policy_against_the_cache_claim(cluster: Cluster) -> None:
    """What belongs to the namespace has no status of its own: its Models tell why they have no cache."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x"}, "spec": spec}
    forbid(cluster, "", "persistentvolumeclaims")
    wanted = model(cluster.namespace, "tiny")
    try:
        await in_force(cluster, "", "persistentvolumeclaims", claim)
        async with operator(cluster.server.kubeconfig, REAL):
            cluster.apply(wanted)
            message = await refused(cluster, wanted)
            assert message.startswith("the API server refuses PersistentVolumeClaim paddock-cache: ")
            assert "no persistentvolumeclaims today" in message
            allow(cluster, "persistentvolumeclaims")
            await until("it goes on by itself", lambda: ready(cluster, wanted).get("reason") == "Resolving", 30)
    finally:
        allow(cluster, "persistentvolumeclaims")


SHARED = [
    ("networking.k8s.io", "networkpolicies", {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}),
    ("", "serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount"}),
]


@pytest.mark.parametrize(("group", "plural", "sample"), SHARED, ids=["policy", "account"])
async def test_what_all_of_a_namespace_share_is_refused_while_there_is_a_claim(
    cluster: Cluster, group: str, plural: str, sample: dict[str, Any]
) -> None:
    claims = f"/api/v1/namespaces/{cluster.namespace}/persistentvolumeclaims"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    cluster.api.apply(
        f"{claims}/paddock-cache",
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "paddock-cache"}, "spec": spec},
    )
    forbid(cluster, group, plural)
    objects = (model(cluster.namespace, "tiny"), endpoint(cluster.namespace, "chat", "tiny"))
    try:
        body = {"metadata": {"name": "x"}, "spec": {"podSelector": {}}} if group else {"metadata": {"name": "x"}}
        await in_force(cluster, group, plural, {**sample, **body})
        async with operator(cluster.server.kubeconfig, REAL):
            for manifest in objects:
                cluster.apply(manifest)
            for manifest in objects:
                message = await refused(cluster, manifest)
                assert message.startswith(f"the API server refuses {sample['kind']} ")
                assert f"no {plural} today" in message
            allow(cluster, plural)
            for manifest in objects:
                gone = lambda found=manifest: ready(cluster, found).get("reason") != "Refused"  # noqa: E731
                await until("it goes on by itself", gone, 30)
    finally:
        allow(cluster, plural)


def break_webhook(cluster: Cluster, plural: str) -> str:
    """Every write of a kind in the namespace fails: its admission webhook is dead. Returns the webhook's path."""
    name = f"dead-{plural}-{cluster.namespace}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [plural]}
    hook = {
        "name": "dead.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}},
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    cluster.api.apply(f"{HOOKS}/{name}", {**kind, "metadata": {"name": name}, "webhooks": [hook]})
    return f"{HOOKS}/{name}"


BROKEN = [("Endpoint", "secrets", "Secret", "Starting"), ("Model", "services", "Service", "Resolving")]


@pytest.mark.parametrize(("owner", "plural", "kind", "after"), BROKEN, ids=["endpoint", "model"])
async def test_writes_that_go_on_failing_are_told_until_one_succeeds(
    cluster: Cluster, owner: str, plural: str, kind: str, after: str
) -> None:
    namespace = cluster.namespace
    wanted = endpoint(namespace, "chat", "tiny") if owner == "Endpoint" else model(namespace, "tiny")
    where = f"/api/v1/namespaces/{namespace}/{plural}?dryRun=All"
    sample = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}}
    sample |= {"spec": {"ports": [{"port": 80}]}} if kind == "Service" else {}
    hook = break_webhook(cluster, plural)
    try:
        await until("the webhook is asked", lambda: cluster.api.request("POST", where, sample)[0] == 500)
        async with operator(cluster.server.kubeconfig, REAL):
            cluster.apply(wanted)
            message = await refused(cluster, wanted)
            assert message.startswith(f"{kind} {wanted['metadata']['name']}-")
            assert 'failed calling webhook "dead.example.com"' in message
            cluster.api.request("DELETE", hook)
            await until("it goes on by itself", lambda: ready(cluster, wanted).get("reason") == after, 30)
    finally:
        cluster.api.request("DELETE", hook)


KEY = Ref("Endpoint", "a", "chat")
BROKE = ApiError(500, "InternalError", "failed calling webhook")
SILENT = ApiError(0, "Unreachable", "TimeoutError")
BUSY, FAST = ApiError(409, "Conflict", "modified"), ApiError(429, "TooManyRequests", "slow down")
ENDING = ApiError(403, "Forbidden", "unable to create new content because it is being terminated")
NO = ApiError(403, "Forbidden", "exceeded quota")


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ([BROKE], [None]),
        ([BROKE, SILENT, BROKE], [None, SILENT, BROKE]),
        ([BROKE, None, BROKE], [None, None, None]),
        ([BUSY, BUSY, FAST, FAST, ENDING, ENDING], [None] * 6),
        ([BROKE, BUSY, BROKE, FAST], [None, None, BROKE, BROKE]),
        ([NO, BROKE, None], [NO, BROKE, None]),
        ([NO, BUSY], [NO, NO]),
    ],
)
def test_a_blip_is_not_told(history: list[ApiError | None], told: list[ApiError | None]) -> None:
    failures = Failures()
    heard = [failures.note(KEY, *((item, None) if item is NO else (None, item))) for item in history]
    assert heard == told
    failures.forget(KEY)
    assert failures.note(KEY, None, BROKE) is None
    assert failures.told(Ref("Model", "a", "chat")) is None


def test_an_error_names_its_object() -> None:
    assert NO.about("Job", "a-1").message == "the API server refuses Job a-1: exceeded quota"
    assert BROKE.about("Secret", "b").message == "Secret b could not be written: failed calling webhook"
    assert NO.about("Service", "c", "deleted").message == "Service c could not be deleted: exceeded quota"
    silent = SILENT.about("Secret", "b")
    words = "Secret b could not be written: the API server could not be reached or did not answer (TimeoutError)"
    assert (silent.status, silent.reason, silent.kind, silent.message) == (0, "Unreachable", "Secret", words)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "bad", True),
        (403, "jobs.batch is forbidden: exceeded quota", True),
        (422, "invalid", True),
        (500, "failed to create typed patch object (a/b; batch/v1, Kind=Job): .spec: expected map", True),
        (403, "unable to create new content in namespace a because it is being terminated", False),
        (500, "etcdserver: request timed out", False),
        (409, "the object has been modified", False),
        (429, "too many requests", False),
        (0, "Unreachable", False),
    ],
)
def test_what_counts_as_a_refusal(status: int, message: str, expected: bool) -> None:
    assert ApiError(status, "", message).refusal is expected
