"""The table of fields on one machine: complete, published, and acting as it says."""

from __future__ import annotations

from typing import Any

import pytest
from tests.crds.conftest import ROOT
from tests.crds.manifests import HEX, HTTP, endpoint, model, source
from tests.crds.walk import nodes, schema_of

from paddock_operator.core.local_fields import KINDS, covers, ignored_fields, local_problems, markdown
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
    assert (ROOT / "docs" / "reference" / "local-fields.md").read_text() == markdown()


def test_rows_that_are_not_honoured_say_why() -> None:
    rows = [row for rows in KINDS.values() for row in rows if row.effect != "honoured"]
    assert [row.path for row in rows if not row.note or bool(row.when) != bool(row.condition)] == []


SOURCES: dict[str, dict[str, Any]] = {
    "spec.source.ollama.secretRef": source(ollama={"name": "x", "secretRef": {"name": "s"}}),
    "spec.source.huggingFace": source(huggingFace={"repo": "a/b"}),
    "spec.source.oci": source(oci={"reference": "ghcr.io/a/b"}),
    "spec.source.claim": source(claim={"claimName": "c", "path": "m.gguf"}),
    "spec.source.model": source(model={"name": "x"}),
}
REFUSED: dict[str, dict[str, Any]] = SOURCES | {
    "spec.quantization": model(quantization="Q4_K_M"),
    "spec.adapters": model(adapters=[{"name": "a", "source": HTTP}]),
    "spec.projector": model(projector={"source": HTTP}),
    "spec.serving.mode": model(serving={"mode": "Embed"}),
    "spec.resources.accelerator": model(resources={"accelerator": {"vendor": "nvidia"}}),
    "spec.replicas": model(replicas=2),
    "spec.scaling.minReplicas": model(scaling={"minReplicas": 2, "maxReplicas": 2}),
}
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


def test_every_refused_row_is_tested() -> None:
    for kind, tested in (("Model", REFUSED), ("Endpoint", REFUSED_ENDPOINT)):
        assert {row.path for row in KINDS[kind] if row.effect == "refused"} == set(tested)


@pytest.mark.parametrize(
    "document",
    [
        model(replicas=1),
        model(scaling={"minReplicas": 0, "maxReplicas": 9}),
        model(serving={"mode": "Generate"}),
        source(http={"url": "https://h/m.gguf", "sha256": HEX}),
        endpoint(replicas=1, apis=["ollama", "openai"], management="Enabled", ingress={"host": "h"}),
        {"kind": "Secret", "metadata": {"name": "x"}},
    ],
)
def test_what_is_honoured_or_ignored_is_no_error(document: dict[str, Any]) -> None:
    assert local_problems(document) == ()


def test_ignored_fields_are_named() -> None:
    spec = model(
        placement={"nodeSelector": {"a": "b"}},
        scaling={"maxReplicas": 2},
        parameters={"num_gpu": 3, "top_k": 1},
        rollout={"strategy": "Surge", "drainSeconds": 3},
        serving={"speculation": {"type": "PromptLookup"}},
    )["spec"]
    assert ignored_fields("Model", spec) == [
        "spec.parameters.num_gpu",
        "spec.placement",
        "spec.rollout.strategy",
        "spec.scaling.maxReplicas",
        "spec.serving.speculation",
    ]
    assert ignored_fields("Model", model(rollout={"strategy": "Drain"})["spec"]) == []
    assert ignored_fields("Endpoint", endpoint(management="Disabled", routing={})["spec"]) == ["spec.routing"]
