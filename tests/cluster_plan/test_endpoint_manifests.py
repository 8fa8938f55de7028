"""What an Endpoint asks for on a cluster: every child, its links to the others, and what of the spec ends up where."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.plan.world import key
from tests.support.endpoint_world import World, endpoint_document, on_cluster, serving
from tests.support.kube_objects import Document
from tests.support.restricted import violations

from paddock_operator.core.cluster.settings import Images, Settings
from paddock_operator.core.identity import canonical_json, child_name, config_hash
from paddock_operator.core.resources import Ref

C = child_name(Ref("Endpoint", "default", "main"))
FULL: dict[str, Any] = {
    "replicas": 3,
    "tls": {"secretName": "cert"},
    "service": {
        "port": 443,
        "type": "LoadBalancer",
        "nodePort": 30443,
        "loadBalancerClass": "metal",
        "annotations": {"lb": "x"},
    },
    "ingress": {"host": "llm.example", "className": "nginx", "tlsSecretName": "web", "annotations": {"a": "b"}},
    "httpRoute": {
        "parentRefs": [{"name": "gw", "namespace": "infra", "sectionName": "web"}],
        "hostnames": ["h.example"],
    },
}


def applied(world: World) -> dict[tuple[str, str], Document]:
    return {(item["kind"], item["metadata"]["name"]): dict(item) for item in world.plan().apply}


def child(kind: str, name: str = C, **spec: Any) -> Document:
    return applied(World(endpoint=endpoint_document(**spec), has_http_route=True))[kind, name]


def test_the_children_are_the_contracts() -> None:
    world = World()
    assert sorted(applied(world)) == sorted(
        [
            ("ServiceAccount", C),
            ("Role", C),
            ("RoleBinding", C),
            ("RoleBinding", f"{C}-slices"),
            ("ConfigMap", f"{C}-gateways"),
            ("Secret", C),
            ("NetworkPolicy", C),
            ("Service", C),
            ("Deployment", C),
            ("PodDisruptionBudget", C),
        ]
    )
    full = World(endpoint=endpoint_document(**FULL), has_http_route=True)
    assert set(applied(full)) - set(applied(world)) == {("Ingress", C), ("HTTPRoute", C)}


def test_every_child_is_labelled_and_owned() -> None:
    for (kind, _), item in applied(World(endpoint=endpoint_document(**FULL), has_http_route=True)).items():
        metadata = item["metadata"]
        assert metadata["namespace"] == "default"
        assert metadata["labels"] == {
            "app.kubernetes.io/managed-by": "paddock",
            "paddock.dev/child": C,
            "paddock.dev/component": "gateway",
        }, kind
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"], owner["blockOwnerDeletion"]) == (
            "Endpoint",
            "main",
            True,
            False,
        )


def test_the_secret_holds_the_configuration_as_the_api_server_answers_it() -> None:
    secret = child("Secret")
    assert secret["type"] == "paddock.dev/endpoint"
    assert "stringData" not in secret
    body = base64.b64decode(secret["data"]["gateway.json"])
    config = json.loads(body)
    assert body == canonical_json(config)
    assert secret["metadata"]["annotations"] == {
        "paddock.dev/config-hash": config_hash(config),
        "paddock.dev/credential-sha256": hashlib.sha256(b"clear").hexdigest(),
        "paddock.dev/endpoint": "default/main",
    }
    assert base64.b64decode(secret["data"]["credential"]) == b"clear"
    assert config["backendCredential"] == "clear"


def test_routes_name_the_service_and_nothing_that_changes_with_a_pod() -> None:
    world = World()
    world.step()
    (route,) = world.config()["models"]
    assert route["service"] == "smollm2-12345678"
    assert route["backends"] == ["http://smollm2-12345678.default.svc:8080"]
    assert route["ready"] is True
    before = world.hashed()
    world.models = {"smollm2": on_cluster(ready=False, available=False, reason="Loading")}
    world.step()
    assert world.hashed() == before, "the readiness of a Model is no reason to write a Secret"


def test_a_model_without_a_digest_is_routed_and_not_ready() -> None:
    raw = on_cluster(ready=False, available=False, digest="", size=0, details={}, modified_at="")
    world = World(models={"smollm2": raw})
    world.step()
    assert world.config()["models"][0]["ready"] is False


def test_rights_are_one_secret_one_config_map_and_endpoint_slices() -> None:
    assert child("Role")["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [C], "verbs": ["get", "watch"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [f"{C}-gateways"], "verbs": ["get", "patch"]},
    ]
    own, slices = child("RoleBinding"), child("RoleBinding", f"{C}-slices")
    assert (own["roleRef"]["kind"], own["roleRef"]["name"]) == ("Role", C)
    assert (slices["roleRef"]["kind"], slices["roleRef"]["name"]) == ("ClusterRole", "paddock-gateway")
    account = {"kind": "ServiceAccount", "name": C, "namespace": "default"}
    assert own["subjects"] == slices["subjects"] == [account]
    assert child("ServiceAccount")["automountServiceAccountToken"] is False


def test_the_reports_belong_to_the_gateways() -> None:
    world = serving()
    assert "data" not in child("ConfigMap", f"{C}-gateways")
    world.step()
    assert world.one("ConfigMap")["data"], "a second plan leaves what gateways wrote"


def test_the_deployment() -> None:
    spec = child("Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    pod = spec["template"]["spec"]
    (gateway,) = pod["containers"]
    assert gateway["args"] == [
        "gateway", "--config", "/etc/paddock/gateway.json", "--listen", "[::]:11434", "--secret", f"default/{C}"
    ]  # fmt: skip
    assert gateway["env"] == [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    assert gateway["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert gateway["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert gateway["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert pod["terminationGracePeriodSeconds"] == 45
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == (C, True)
    (config,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "config"]
    assert config["items"] == [{"key": "gateway.json", "path": "gateway.json"}], (
        "the credential is not a file of its own"
    )
    assert pod["topologySpreadConstraints"][0]["whenUnsatisfiable"] == "ScheduleAnyway"
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_tls_is_mounted_and_probed() -> None:
    pod = child("Deployment", tls={"secretName": "cert"})["spec"]["template"]["spec"]
    (gateway,) = pod["containers"]
    assert gateway["args"][-2:] == ["--tls", "/etc/paddock-tls"]
    assert {"name": "tls", "mountPath": "/etc/paddock-tls", "readOnly": True} in gateway["volumeMounts"]
    (volume,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "tls"]
    assert (volume["secretName"], [item["path"] for item in volume["items"]]) == ("cert", ["tls.crt", "tls.key"])
    probes = [gateway[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert [probe["scheme"] for probe in probes] == ["HTTPS"] * 3


def test_the_template_is_stable() -> None:
    """Keys, routes, limits, replicas, who may connect: nothing of it needs another pod."""
    base = child("Deployment")["spec"]["template"]
    for spec in (
        {"replicas": 5},
        {"limits": {"concurrency": 1}},
        {"models": [{"name": "other"}]},
        {"auth": {"none": {}}},
        {"network": {"allowFrom": [{"podSelector": {}}]}},
        {"service": {"port": 80}},
    ):
        assert child("Deployment", **spec)["spec"]["template"] == base, spec
    other = World(keys=(key("a"), key("b", "2")), credential="another", models={})
    assert applied(other)["Deployment", C]["spec"]["template"] == base
    assert child("Deployment", tls={"secretName": "x"})["spec"]["template"] != base


@pytest.mark.parametrize("spec", [{}, {"tls": {"secretName": "cert"}}, FULL])
def test_pods_are_restricted(spec: dict[str, Any]) -> None:
    world = World(endpoint=endpoint_document(**spec), settings=Settings(images=Images(pull_secrets=("hub",))))
    templates = [item["spec"]["template"]["spec"] for item in world.plan().apply if "template" in item.get("spec", {})]
    assert [violations(pod) for pod in templates] == [[]]
    (pod,) = templates
    assert pod["imagePullSecrets"] == [{"name": "hub"}]
    assert (pod["enableServiceLinks"], pod["securityContext"]["runAsUser"]) == (False, 65532)


def test_the_service_takes_what_spec_says() -> None:
    plain, full = child("Service"), child("Service", **FULL)
    assert plain["spec"] == {
        "type": "ClusterIP",
        "selector": {"paddock.dev/child": C, "paddock.dev/component": "gateway"},
        "ports": [{"name": "http", "port": 11434, "targetPort": "http", "protocol": "TCP"}],
    }
    (port,) = full["spec"]["ports"]
    assert (port["port"], port["nodePort"], port["targetPort"]) == (443, 30443, "http")
    assert (full["spec"]["type"], full["spec"]["loadBalancerClass"]) == ("LoadBalancer", "metal")
    assert full["metadata"]["annotations"] == {"lb": "x"}


def test_fronts() -> None:
    ingress, route = child("Ingress", **FULL), child("HTTPRoute", **FULL)
    (rule,) = ingress["spec"]["rules"]
    assert (rule["host"], rule["http"]["paths"][0]["path"]) == ("llm.example", "/")
    assert rule["http"]["paths"][0]["backend"] == {"service": {"name": C, "port": {"number": 443}}}
    assert (ingress["spec"]["ingressClassName"], ingress["metadata"]["annotations"]) == ("nginx", {"a": "b"})
    assert ingress["spec"]["tls"] == [{"hosts": ["llm.example"], "secretName": "web"}]
    assert route["spec"] == {
        "parentRefs": [{"name": "gw", "namespace": "infra", "sectionName": "web"}],
        "hostnames": ["h.example"],
        "rules": [{"backendRefs": [{"name": C, "port": 443}]}],
    }


@pytest.mark.parametrize(("replicas", "budget"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_budget_only_for_more_than_one(replicas: int, budget: bool) -> None:
    world = World(endpoint=endpoint_document(replicas=replicas))
    assert (("PodDisruptionBudget", C) in applied(world)) is budget
    assert applied(world)["Deployment", C]["spec"]["replicas"] == replicas
    assert ("Secret", C) in applied(world), "the credential and the configuration outlive a scale to zero"


def test_what_is_no_longer_asked_for_goes() -> None:
    world = World(endpoint=endpoint_document(**FULL), has_http_route=True)
    world.step()
    world.edit(ingress=None, httpRoute=None, replicas=1)
    world.step()
    assert not any(world.has(kind) for kind in ("Ingress", "HTTPRoute", "PodDisruptionBudget"))


def test_an_operator_upgrade_waits_for_its_turn() -> None:
    world = serving()
    before = world.one("Deployment")
    world.settings = replace(world.settings, images=Images("gateway:2", "runner:2"))
    world.may_roll = False
    plan = world.step()
    assert (plan.rolls, plan.requeue_seconds) == (False, 5.0)
    assert world.one("Deployment") == before
    assert world.condition("Ready") == ("True", "GatewayReady")
    world.edit(replicas=3)
    assert world.step().rolls, "what a user asks for does not wait"
    assert world.one("Deployment")["spec"]["replicas"] == 3


def test_an_operator_upgrade_rolls_in_its_turn_and_keeps_ready() -> None:
    world = serving()
    world.settings = replace(world.settings, images=Images("gateway:2", "runner:2"))
    plan = world.step()
    assert plan.rolls
    assert world.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"] == "gateway:2"
    assert world.condition("Ready") == ("True", "GatewayReady")
    assert not world.step().rolls


def test_a_wrong_kind_is_refused() -> None:
    world = World()
    world.endpoint["kind"] = "Model"
    world.endpoint["spec"] = {"source": {"ollama": {"name": "x"}}}
    with pytest.raises(ValueError, match="Model is not an Endpoint"):
        world.plan()
