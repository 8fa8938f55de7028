"""A real API server accepts every manifest of an Endpoint and of a namespace, and a second time changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import kube_objects as kube
from tests.support.apiserver import ApiServer
from tests.support.endpoint_world import World, endpoint_document
from tests.support.namespace_world import namespace_seen

from paddock_operator.core.cluster.collect import live_digests
from paddock_operator.core.cluster.diff import needs_apply
from paddock_operator.core.cluster.namespace import plan_namespace
from paddock_operator.core.cluster.settings import Cache, Settings
from paddock_operator.core.cluster.source_settings import AllowedSource, Sources
from paddock_operator.core.cluster.types import Manifest
from paddock_operator.executors.kube.kinds import BY_NAME

PATCH = "application/apply-patch+yaml"
STRICT = "fieldManager=paddock&force=true&fieldValidation=Strict"
PEERS = [
    {"podSelector": {}},
    {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}},
    {"cidr": "10.1.2.3/8"},
    {"cidr": "fd00::/8"},
]
FULL: dict[str, Any] = {
    "tls": {"secretName": "cert"},
    "service": {
        "port": 443,
        "type": "LoadBalancer",
        "loadBalancerClass": "metal.example/x",
        "annotations": {"lb": "x"},
    },
    "ingress": {"host": "llm.example", "className": "nginx", "tlsSecretName": "web", "annotations": {"a": "b"}},
    "network": {"allowFrom": PEERS},
    "replicas": 3,
}


def apply_twice(server: ApiServer, manifest: Manifest) -> None:
    metadata = manifest["metadata"]
    path = f"{BY_NAME[manifest['kind']].path(metadata['namespace'], metadata['name'])}?{STRICT}"
    status, stored = server.api.request("PATCH", path, manifest, PATCH)
    assert status in (200, 201), stored
    assert not needs_apply(stored, manifest), manifest["kind"]
    # A claim is applied once in its life; a policy's empty list is stored as none, which a blind second apply touches.
    if manifest["kind"] in ("PersistentVolumeClaim", "NetworkPolicy"):
        return
    status, again = server.api.request("PATCH", path, manifest, PATCH)
    assert (status, again["metadata"]["resourceVersion"]) == (200, stored["metadata"]["resourceVersion"])


@pytest.mark.parametrize("spec", [{}, FULL], ids=["plain", "full"])
def test_an_endpoint_on_a_real_server(apiserver: ApiServer, namespace: str, spec: dict[str, Any]) -> None:
    document = endpoint_document("a", namespace, **spec)
    document["metadata"] = {"name": "a", "namespace": namespace}
    path = f"/apis/paddock.dev/v1alpha1/namespaces/{namespace}/endpoints/a"
    status, stored = apiserver.api.request("PATCH", f"{path}?{STRICT}", document, PATCH)
    assert status == 201, stored
    world = World(endpoint=stored)
    plan = world.step()
    for manifest in plan.apply:
        apply_twice(apiserver, manifest)
    world.ready()
    world.rolled()
    world.report()
    world.step()
    body = {key: document[key] for key in ("apiVersion", "kind", "metadata")} | {"status": world.status()}
    status, stored = apiserver.api.request("PATCH", f"{path}/status?{STRICT}", body, PATCH)
    assert status == 200, stored
    assert stored["status"] == world.status()


def test_a_namespace_on_a_real_server(apiserver: ApiServer, namespace: str) -> None:
    model = kube.model_document("m", namespace)
    model["status"] = {"observedGeneration": 1, "resolved": {"digest": "sha256:" + "a" * 64}}
    settings = Settings(
        sources=Sources((AllowedSource("r.lan", "10.0.0.0/8"),)), cache=Cache(storage_class="fast", mode="Node")
    )
    nodes = [
        kube.born({"kind": "Pod", "metadata": {"name": n, "labels": {"paddock.dev/component": "runner"}}}) for n in "ab"
    ]
    pods = tuple({**pod, "spec": {"nodeName": f"node-{pod['metadata']['name']}"}} for pod in nodes)
    for claim, cache in ((None, settings.cache), (kube.claim(), settings.cache), (kube.claim(), Cache())):
        seen = namespace_seen(
            namespace,
            models=(model,),
            claim=claim,
            now=kube.at(90000),
            settings=Settings(sources=settings.sources, cache=cache),
            pods=pods,
        )
        assert live_digests(seen)
        for manifest in plan_namespace(seen).apply:
            if manifest["kind"] == "Job":
                name = f"{cache.mode.lower()}-{manifest['metadata']['name']}"
                manifest = {**manifest, "metadata": {**manifest["metadata"], "name": name}}
            apply_twice(apiserver, manifest)
