"""The table of fields: complete, published, and acting as it says, on a cluster and on one machine."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.crds.conftest import ROOT
from tests.crds.manifests import HEX, HTTP, endpoint, model, source
from tests.crds.walk import nodes, schema_of

from paddock_operator.core.fields import KINDS, covers, effect_on, ignored_fields, local_problems, markdown, unsupported
from paddock_operator.core.schema import Schemas, problems

Crds = dict[str, dict[str, Any]]


def leaves(crds: Crds, kind: str) -> list[str]:
    found = nodes(schema_of(crds[kind])["properties"]["spec"], "spec")
    return [path for path, node in found if "properties" not in node and not path.endswith("[]")]


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_every_field_has_exactly_one_row(crds: Crds, kind: str) -> None:
    rows = [row.path for row in KINDS[kind]]
    counts = {leaf: sum(covers(row, leaf) for row in rows) for leaf in leaves(crds, kind)}
    assert {leaf: count for leaf, count in counts.items() if count != 1} == {}


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_every_row_is_a_field_of_the_crd(crds: Crds, kind: str) -> None:
    known = {path for path, _ in nodes(schema_of(crds[kind])["properties"]["spec"], "spec")}
    assert [row.path for row in KINDS[kind] if row.path not in known] == []


def test_the_document_is_the_table() -> None:
    assert (ROOT / "docs" / "reference" / "fields.md").read_text() == markdown()


def test_rows_that_are_not_honoured_say_why() -> None:
    for rows in KINDS.values():
        for row in rows:
            for effect in (row.cluster, row.local):
                assert effect.kind == "honoured" or effect.note, row.path
                assert bool(effect.when) == bool(effect.condition), row.path


SOURCES: dict[str, dict[str, Any]] = {
    "spec.source.claim": source(claim={"claimName": "c", "path": "m.gguf"}),
}
REFUSED: dict[str, dict[str, Any]] = SOURCES | {
    "spec.adapters": model(adapters=[{"name": "a", "source": HTTP}]),
    "spec.projector": model(projector={"source": HTTP}),
    "spec.resources.accelerator": model(resources={"accelerator": {"vendor": "nvidia"}}),
    "spec.replicas": model(replicas=2),
    "spec.scaling.minReplicas": model(scaling={"minReplicas": 2, "maxReplicas": 2}),
    "spec.rollout.canary": model(rollout={"canary": {"prompt": "2+2?", "expect": "4"}}),
}
ON_CLUSTER = {*SOURCES, "spec.replicas", "spec.scaling.minReplicas", "spec.tls", "spec.network"}
"""Refused on one machine, honoured on a cluster."""
REFUSED_ENDPOINT: dict[str, dict[str, Any]] = {
    "spec.auth.serviceAccounts": endpoint(auth={"serviceAccounts": {"accounts": [{"name": "a"}]}}),
    "spec.auth.jwt": endpoint(auth={"jwt": {"issuer": "i", "audience": "a", "jwksUrl": "https://h/k"}}),
    "spec.limits.tokensPerMinute": endpoint(limits={"tokensPerMinute": 1000}),
    "spec.apis": endpoint(apis=["anthropic"]),
    "spec.tls": endpoint(tls={"secretName": "t"}),
    "spec.network": endpoint(network={"allowFrom": [{"cidr": "10.0.0.0/8"}]}),
    "spec.replicas": endpoint(replicas=2),
}


@pytest.mark.parametrize(("path", "document"), [*REFUSED.items(), *REFUSED_ENDPOINT.items()])
def test_refused_fields_are_an_error(schemas: Schemas, path: str, document: dict[str, Any]) -> None:
    assert problems(document, schemas) == ()
    (problem,) = local_problems(document)
    assert problem.path == path
    assert str(problem).startswith(f"{path}: not possible on one machine: ")


@pytest.mark.parametrize(("path", "document"), [*REFUSED.items(), *REFUSED_ENDPOINT.items()])
def test_a_cluster_names_field_and_fix(path: str, document: dict[str, Any]) -> None:
    words = unsupported(document["kind"], document["spec"])
    assert bool(words) != (path in ON_CLUSTER)
    assert not words or words.startswith(f"{path}: ")


def test_every_refused_row_is_tested() -> None:
    for kind, tested in (("Model", REFUSED), ("Endpoint", REFUSED_ENDPOINT)):
        for platform, paths in (("local", set(tested)), ("cluster", set(tested) - ON_CLUSTER)):
            assert {row.path for row in KINDS[kind] if effect_on(row, platform).kind == "refused"} == paths


def test_all_that_is_refused_is_named_at_once() -> None:
    spec = model(projector={"source": HTTP}, rollout={"canary": {"prompt": "2+2?", "expect": "4"}})["spec"]
    words = unsupported("Model", spec)
    assert words.startswith("spec.projector: images are not understood yet; remove it; spec.rollout.canary: ")


@pytest.mark.parametrize(
    "document",
    [
        model(replicas=1),
        model(scaling={"minReplicas": 0, "maxReplicas": 9}),
        model(serving={"mode": "Generate"}),
        model(serving={"mode": "Embed"}),
        model(serving={"mode": "Rerank"}),
        source(http={"url": "https://h/m.gguf", "sha256": HEX}),
        source(huggingFace={"repo": "a/b", "revision": "main", "file": "m.gguf"}),
        source(oci={"reference": "ghcr.io/a/b:1"}),
        source(model={"name": "x"}),
        model(quantization="Q4_K_M"),
        endpoint(replicas=1, apis=["ollama", "openai"], management="Enabled", ingress={"host": "h"}),
        {"kind": "Secret", "metadata": {"name": "x"}},
    ],
)
def test_what_is_honoured_or_ignored_is_no_error(document: dict[str, Any]) -> None:
    assert local_problems(document) == ()


def test_there_is_an_example_of_every_source(schemas: Schemas) -> None:
    files = sorted((ROOT / "examples" / "sources").glob("*.yaml"))
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    assert [problems(document, schemas) for document in documents] == [()] * len(documents)
    models = [document for document in documents if document["kind"] == "Model"]
    assert [unsupported("Model", document["spec"]) for document in models] == [""] * len(models)
    shown = {kind for document in models for kind in document["spec"]["source"]}
    assert shown == {"ollama", "huggingFace", "oci", "http", "claim", "model"}


def test_ignored_fields_are_named() -> None:
    spec = model(
        placement={"nodeSelector": {"a": "b"}},
        scaling={"maxReplicas": 2},
        parameters={"num_gpu": 3, "top_k": 1},
        rollout={"strategy": "Surge", "drainSeconds": 3},
        serving={"speculation": {"type": "PromptLookup"}},
    )["spec"]
    both = ["spec.parameters.num_gpu", "spec.scaling.maxReplicas", "spec.serving.speculation"]
    assert ignored_fields("Model", spec, "local") == sorted([*both, "spec.placement", "spec.rollout.strategy"])
    assert ignored_fields("Model", spec, "cluster") == both
    assert ignored_fields("Model", model(rollout={"strategy": "Drain"})["spec"], "local") == []
    spec = endpoint(management="Disabled", routing={}, ingress={"host": "h"})["spec"]
    assert ignored_fields("Endpoint", spec, "local") == ["spec.ingress", "spec.routing"]
    assert ignored_fields("Endpoint", spec, "cluster") == ["spec.routing"]
