"""A table of manifests that must be refused, each with the field that its message names, and of ones that must not."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.crds.conftest import ROOT
from tests.crds.invalid_endpoints import ENDPOINTS, KEYS
from tests.crds.invalid_models import MODELS, ROUTED
from tests.crds.manifests import HEX, endpoint, model, named, policy, secret, selecting, source

from paddock_operator.core.schema import Schemas, duplicates, problems

INVALID = [*ROUTED, *MODELS, *ENDPOINTS, *KEYS]


@pytest.mark.parametrize(("document", "field", "words"), INVALID)
def test_refused_with_the_field_and_the_fix(schemas: Schemas, document: Any, field: str, words: str) -> None:
    found = problems(document, schemas)
    about = [str(problem) for problem in found if problem.path == field]
    assert about, [str(problem) for problem in found]
    assert any(words in text for text in about), about
    assert all("\n" not in str(problem) and len(str(problem)) < 5000 for problem in found)
    assert all(problem.fix or ";" in problem.message for problem in found)


VALID: list[dict[str, Any]] = [
    model(),
    source(ollama={"name": "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"}),
    source(ollama={"name": "localhost:5000/team/model:v1", "digest": "sha256:" + HEX, "secretRef": {"name": "reg"}}),
    source(ollama={"name": "registry.ollama.ai/library/smollm2:135m@sha256:" + HEX}),
    source(huggingFace={"repo": "Qwen/Qwen3-8B-GGUF", "file": "Qwen3-8B-Q4_K_M.gguf", "revision": "main"}),
    source(oci={"reference": "ghcr.io/acme/models/llama:1.0@sha256:" + HEX}),
    source(http={"url": "http://127.0.0.1:8080/m.gguf", "sha256": HEX}),
    source(http={"url": "https://[::1]:8443/a/b.gguf?x=1@2", "sha256": HEX}),
    source(claim={"claimName": "data", "path": "dir/m.gguf"}),
    source(claim={"claimName": "data", "path": "blobs/sha256-" + HEX}),
    source(model={"name": "base.model"}),
    named("llama3.2-3b", namespace="team", labels={"app": "x"}, annotations={"note": "any text ü"}),
    model(updatePolicy={"type": "Track", "interval": "1h30m"}),
    model(replicas=0),
    model(scaling={"minReplicas": 0, "maxReplicas": 3, "idleTimeout": "10m"}),
    model(serving={"keepAlive": "-1", "contextLength": 8192, "kvCache": {"cells": 8192, "typeV": "q8_0"}}),
    model(resources={"memory": "Auto", "cpu": 2, "accelerator": {"vendor": "nvidia", "layers": "Auto"}}),
    model(resources={"memory": 6442450944, "cpu": "1500m", "accelerator": {"vendor": "amd", "layers": 20}}),
    model(parameters={"temperature": 0, "seed": -1, "num_predict": -2, "stop": ["<|im_end|>"]}),
    model(placement={"affinity": {"nodeAffinity": {"anything": [1]}}, "topologySpreadConstraints": [{"maxSkew": 1}]}),
    model(quantization="Q4_K_M", template="{{ .Prompt }}", system="", suspend=False),
    # an API server drops nulls and ignores the status of a manifest
    model(
        system=None, parameters={"temperature": None}, placement={"nodeSelector": {"a": None}, "affinity": {"b": None}}
    ),
    {**model(), "status": {"replicas": "many"}},
    {**model(), "status": None},
    named("m", annotations={"A.example/b": None}, labels={"a.example/B": "", "c": None}, generation=-1),
    model(updatePolicy={"type": "Track", "interval": "999999h999999h999999h999999h"}),
    model(serving={"contextLength": 4194304, "slots": 1}),
    endpoint(),
    endpoint(models=[{"name": "m", "aliases": ["smollm2:135m", "hf.co/a/b:Q4"]}, {"name": "n"}]),
    selecting(matchExpressions=[{"key": "a", "operator": "Exists"}]),
    endpoint(auth={"none": {}}),
    endpoint(auth={"apiKeys": {"names": ["a", "b"]}, "serviceAccounts": {"accounts": [{"name": "default"}]}}),
    endpoint(service={"type": "NodePort", "nodePort": 31434, "port": 80}),
    secret(),
    secret(
        stringData=None,
        data={"sha256": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg=="},
    ),
    policy(models=["*"], verbs=["infer", "manage"], expires="2030-01-01T00:00:00Z"),
    policy(previous={"sha256": HEX, "until": "2030-01-01T00:00:00+02:00"}, expires=None),
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "tls"},
        "type": "kubernetes.io/tls",
        "data": {"x": "eA=="},
    },
]


@pytest.mark.parametrize("document", VALID)
def test_accepted(schemas: Schemas, document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    assert problems(document, schemas) == ()
    assert document == before


def test_the_examples_are_accepted(schemas: Schemas) -> None:
    files = sorted((ROOT / "examples").rglob("*.yaml"))
    found = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    documents = [document for document in found if document["apiVersion"].startswith("paddock.dev/")]
    assert {document["kind"] for document in documents} == {"Model", "Endpoint"}
    assert [str(problem) for document in documents for problem in problems(document, schemas)] == []


def test_all_problems_are_reported_and_their_number_is_bounded(schemas: Schemas) -> None:
    found = problems(model(replicas=-1, suspend=3, unknown=1), schemas)
    assert {problem.path for problem in found} == {"spec.replicas", "spec.suspend", "spec.unknown"}
    assert len(problems(model(**{f"x{index}": 1 for index in range(100)}), schemas)) == 20


def test_a_secret_is_never_quoted(schemas: Schemas) -> None:
    clear = "pdk_01234567_" + "s" * 43
    documents = [secret(sha256=clear), secret(clear), policy(models=[clear + " "]), policy(verbs=[clear])]
    assert all(clear not in str(problem) for document in documents for problem in problems(document, schemas))


def test_duplicates_name_the_object() -> None:
    documents = [model(), named("other"), {**model(), "metadata": {"name": "m", "namespace": "default"}}, endpoint()]
    (problem,) = duplicates(documents)
    assert str(problem) == "metadata.name: Model default/m is declared 2 times; keep one of them or rename"


def test_a_hostile_pattern_input_is_quick(schemas: Schemas) -> None:
    started = time.monotonic()
    for text in ("a" * 593, "a." * 250 + "!", "a/" * 200, "0" * 500 + "/"):
        problems(source(ollama={"name": text}), schemas)
        problems(source(oci={"reference": "a/" + text}), schemas)
        problems(source(claim={"claimName": "c", "path": text}), schemas)
    assert time.monotonic() - started < 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["Model", "Endpoint", "Secret"]),
    value=json_values,
    where=st.sampled_from(["spec", "metadata", "stringData"]),
)
def test_no_input_raises(schemas: Schemas, kind: str, value: Any, where: str) -> None:
    document = {**model(), "kind": kind, "type": "paddock.dev/api-key", where: value}
    document["apiVersion"] = "v1" if kind == "Secret" else document["apiVersion"]
    assert all(problem.path and problem.message for problem in problems(document, schemas))
