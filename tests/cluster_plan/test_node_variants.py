"""Variants with a cache on each node: the bytes come from the source of their base, with its Secret, by its digest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support import kube_objects as kube
from tests.support.kube_objects import Document
from tests.support.kube_world import A, B, World

from paddock_operator.core.cluster.settings import Cache, Settings
from paddock_operator.core.identity import source_hash
from paddock_operator.core.resources import Model, parse

NODES = Settings(cache=Cache(mode="Node"), drift_seconds=0)
COMMIT = "c0ffee" + "0" * 34
NODE = "paddock.dev/node"


def pinned(
    name: str, digest: str, source: dict[str, Any], spec: dict[str, Any] | None = None, **resolved: Any
) -> Document:
    document = kube.model_document(name, source=source, **(spec or {}))
    model = parse(document)
    assert isinstance(model, Model)
    hashed = source_hash(model.spec.source, model.spec.quantization)
    return {**document, "status": {"resolved": {"digest": digest, "sourceHash": hashed, **resolved}}}


def variant(base: Document, *others: Document) -> World:
    world = World(model=kube.model_document(source={"model": {"name": base["metadata"]["name"]}}), settings=NODES)
    world.others = {item["metadata"]["name"]: item for item in (base, *others)}
    world.step()
    return world


def pod_of(job: Document) -> Document:
    found: Document = job["spec"]["template"]["spec"]
    return found


def request_of(job: Document) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pod_of(job)["containers"][0]["env"][0]["value"])
    return found


ORIGINS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # source of the base, more of its spec, more of its pin, source that is asked
    ({"ollama": {"name": "x"}}, {}, {}, {"ollama": {"name": "x", "digest": A}}),
    (
        {"huggingFace": {"repo": "a/b"}}, {"quantization": "Q4_K_M"}, {"revision": COMMIT},
        {"huggingFace": {"repo": "a/b", "revision": COMMIT, "quantization": "Q4_K_M"}},
    ),
    ({"oci": {"reference": "r.io/a:1"}}, {}, {"revision": B}, {"oci": {"reference": f"r.io/a:1@{B}"}}),
]  # fmt: skip


@pytest.mark.parametrize(("source", "spec", "pin", "asked"), ORIGINS)
def test_the_source_of_the_base_is_asked(
    source: dict[str, Any], spec: dict[str, Any], pin: dict[str, Any], asked: dict[str, Any]
) -> None:
    world = variant(pinned("base", A, source, spec, **pin))
    assert request_of(world.one("Job")) == {"source": asked, "digest": A}


def test_through_another_variant() -> None:
    root = pinned("root", A, {"ollama": {"name": "x"}})
    world = variant(pinned("middle", A, {"model": {"name": "root"}}), root)
    assert request_of(world.one("Job")) == {"source": {"ollama": {"name": "x", "digest": A}}, "digest": A}


def test_the_secret_and_the_claim_of_the_base_are_mounted() -> None:
    world = variant(
        pinned("base", A, {"oci": {"reference": "r.io/a:1", "secretRef": {"name": "registry"}}}, revision=B)
    )
    secrets = [item["secret"]["secretName"] for item in pod_of(world.one("Job"))["volumes"] if "secret" in item]
    assert secrets == ["registry"]
    world = variant(pinned("base", A, {"claim": {"claimName": "weights", "path": "m.gguf"}}))
    claims = [item.get("persistentVolumeClaim", {}).get("claimName") for item in pod_of(world.one("Job"))["volumes"]]
    assert "weights" in claims


def serving(world: World) -> None:
    """The first pull ran on n1, and a runner waits on n2."""
    world.pull(A)
    world.put({**(first := next(iter(world.pods.values()))), "spec": {**first["spec"], "nodeName": "n1"}})
    world.step()
    runner = world.runner()
    world.put({**runner, "spec": {**runner["spec"], "nodeName": "n2"}})
    world.step()


def on_nodes(world: World) -> list[Document]:
    jobs = [job for (kind, _), job in world.children.items() if kind == "Job"]
    return [job for job in jobs if NODE in job["metadata"]["annotations"]]


def test_each_node_asks_by_what_the_variant_is_pinned_to() -> None:
    base = pinned("base", A, {"oci": {"reference": "r.io/a:1"}}, revision=B)
    world = variant(base)
    serving(world)
    assert world.status()["resolved"]["revision"] == B, "what the base was found under is kept with the pin"
    (job,) = on_nodes(world)
    assert request_of(job) == {"source": {"oci": {"reference": f"r.io/a:1@{B}"}}, "digest": A}
    before = (set(world.children), world.writes)
    world.others = {"base": pinned("base", B, {"oci": {"reference": "r.io/a:1"}}, revision=A)}
    world.step(100)
    assert set(world.children) == before[0], (
        "a base that moved on changes nothing of a pinned variant but what it tells"
    )
    assert world.condition("Drifted") == ("True", "SourceMoved")


def test_a_base_that_is_gone_leaves_the_cache_to_be_asked() -> None:
    world = variant(pinned("base", A, {"ollama": {"name": "x"}}))
    world.others = {}
    serving(world)
    (job,) = on_nodes(world)
    assert request_of(job)["source"] == {"model": {"name": "base", "digest": A}}


def test_what_the_base_converted_is_on_its_nodes_alone() -> None:
    world = variant(pinned("base", A, {"ollama": {"name": "x"}}, {"quantization": "Q8_0"}, sourceDigest=B))
    assert world.condition("Ready") == ("False", "Unsupported")
    assert world.message("Ready").startswith("spec.source.model: with cache.mode Node")
    assert world.many("Job") == []
