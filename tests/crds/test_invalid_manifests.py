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
from tests.crds.manifests import HEX, HTTP, OLLAMA, endpoint, model, named, policy, secret, source

from paddock_operator.core.schema import Schemas, duplicates, problems

INVALID: list[tuple[dict[str, Any] | Any, str, str]] = [
    # the document itself
    ([], "the document", "a list"),
    ({}, "kind", "Model, Endpoint, Secret"),
    ({**model(), "kind": "Modle"}, "kind", "did you mean Model?"),
    ({**model(), "kind": "Pod", "apiVersion": "v1"}, "kind", "Pod"),
    ({**model(), "apiVersion": "paddock.dev/v1"}, "apiVersion", "paddock.dev/v1alpha1"),
    ({**model(), "metadata": None}, "metadata", "metadata must be an object"),
    ({key: value for key, value in model().items() if key != "spec"}, "spec", "required"),
    ({**model(), "spce": {}}, "spce", "did you mean spec?"),
    ({**model(), "spec": []}, "spec", "must be an object"),
    # metadata
    (named(""), "metadata.name", "required"),
    (named("Upper"), "metadata.name", "lower-case"),
    (named("a_b"), "metadata.name", "lower-case"),
    (named("a..b"), "metadata.name", "lower-case"),
    (named("a\n"), "metadata.name", "lower-case"),
    (named("a" * 254), "metadata.name", "limit of 253"),
    (named(7), "metadata.name", "quotes"),
    (named("m", namespace="a.b"), "metadata.namespace", "lower-case"),
    (named("m", namespace="n" * 64), "metadata.namespace", "limit of 63"),
    (named("m", lables={}), "metadata.lables", "did you mean metadata.labels?"),
    (named("m", labels={"a": 1}), "metadata.labels.a", "quotes"),
    (named("m", labels={"a": "b c"}), "metadata.labels.a", "63"),
    (named("m", annotations=["x"]), "metadata.annotations", "object of strings"),
    (named("m", generation="two"), "metadata.generation", "remove it"),
    # sources
    (source(), "spec.source", "exactly one of"),
    (source(**OLLAMA, **HTTP), "spec.source", "exactly one of"),
    ({**model(), "spec": {}}, "spec.source", "required"),
    (source(olama={"name": "x"}), "spec.source.olama", "did you mean spec.source.ollama?"),
    (source(ollama={}), "spec.source.ollama.name", "required"),
    (source(ollama={"name": ""}), "spec.source.ollama.name", "minimum of 1"),
    (source(ollama={"name": "a b"}), "spec.source.ollama.name", "does not match"),
    (source(ollama={"name": "../etc/passwd"}), "spec.source.ollama.name", "does not match"),
    (source(ollama={"name": "x" * 600}), "spec.source.ollama.name", "limit of 593"),
    (source(ollama={"name": "x@sha256:" + HEX}), "spec.source.ollama.name", "does not match"),
    (source(ollama={"name": "x", "digest": HEX}), "spec.source.ollama.digest", "sha256:"),
    (source(ollama={"name": "x", "secretRef": "s"}), "spec.source.ollama.secretRef", "must be an object"),
    (source(http={"url": "https://h/m.gguf"}), "spec.source.http.sha256", "required"),
    (source(http={"url": "ftp://h/m.gguf", "sha256": HEX}), "spec.source.http.url", "does not match"),
    (source(http={"url": "https://user:pw@h/m.gguf", "sha256": HEX}), "spec.source.http.url", "without user name"),
    (source(http={"url": "file:///etc/passwd", "sha256": HEX}), "spec.source.http.url", "does not match"),
    (source(http={"url": "https://h/m", "sha256": HEX.upper()}), "spec.source.http.sha256", "lower-case"),
    (source(huggingFace={"repo": "justname"}), "spec.source.huggingFace.repo", "owner/name"),
    (source(huggingFace={"repo": "a/b", "file": "../m.gguf"}), "spec.source.huggingFace.file", "does not match"),
    (source(oci={"reference": "x"}), "spec.source.oci.reference", "registry/repository"),
    (source(claim={"claimName": "c", "path": "/abs/m.gguf"}), "spec.source.claim.path", "relative"),
    (source(claim={"claimName": "c", "path": "a/../m.gguf"}), "spec.source.claim.path", "relative"),
    (source(**OLLAMA, resolve=3), "spec.source.resolve", "must be a string"),
    # the rest of a Model
    (model(repicas=1), "spec.repicas", "did you mean spec.replicas?"),
    (model(replicas="two"), "spec.replicas", "must be an integer"),
    (model(replicas=True), "spec.replicas", "must be an integer"),
    (model(replicas=1.0), "spec.replicas", "must be an integer"),
    (model(replicas=-1), "spec.replicas", "minimum of 0"),
    (model(replicas=65), "spec.replicas", "maximum of 64"),
    (model(replicas=1, scaling={"maxReplicas": 2}), "spec.replicas", "exclude each other"),
    (model(scaling={"minReplicas": 3, "maxReplicas": 2}), "spec.scaling.minReplicas", "must not exceed"),
    (model(scaling={"maxReplicas": 2, "idleTimeout": "5m"}), "spec.scaling.idleTimeout", "minReplicas 0"),
    (model(updatePolicy={"type": "Track"}), "spec.updatePolicy.interval", "required"),
    (model(updatePolicy={"type": "Pinned", "interval": "1h"}), "spec.updatePolicy.interval", "remove it"),
    (model(updatePolicy={"type": "Track", "interval": "10s"}), "spec.updatePolicy.interval", "at least 1m"),
    (model(updatePolicy={"type": "Track", "interval": "1 day"}), "spec.updatePolicy.interval", "24h"),
    (model(source=HTTP, updatePolicy={"type": "Track", "interval": "1h"}), "spec.updatePolicy", "use Pinned"),
    (
        model(
            source={"ollama": {"name": "x", "digest": "sha256:" + HEX}},
            updatePolicy={"type": "Track", "interval": "1h"},
        ),
        "spec.updatePolicy",
        "contradicts",
    ),
    (model(system=None), "spec.system", "null"),
    (model(system=["a"]), "spec.system", "must be a string"),
    (model(system="x" * 65537), "spec.system", "limit of 65536"),
    (model(parameters={"temprature": 1}), "spec.parameters.temprature", "did you mean spec.parameters.temperature?"),
    (model(parameters={"temperature": "hot"}), "spec.parameters.temperature", "must be a number"),
    (model(parameters={"temperature": float("nan")}), "spec.parameters.temperature", "must be a number"),
    (model(parameters={"top_p": 1.5}), "spec.parameters.top_p", "maximum of 1"),
    (model(parameters={"stop": "x"}), "spec.parameters.stop", "must be a list"),
    (model(parameters={"stop": [""]}), "spec.parameters.stop[0]", "minimum of 1"),
    (model(parameters={"stop": ["x"] * 17}), "spec.parameters.stop", "limit of 16"),
    (model(parameters={"num_ctx": 1024}, serving={"contextLength": 2048}), "spec.serving", "same setting"),
    (model(messages=[{"role": "User", "content": "x"}]), "spec.messages[0].role", "did you mean user?"),
    (model(messages=[{"role": "user"}]), "spec.messages[0].content", "required"),
    (model(adapters=[{"name": "a", "source": {}}]), "spec.adapters[0].source", "exactly one of"),
    (model(adapters=[{"name": "a", "source": HTTP}] * 2), "spec.adapters[1]", "repeats"),
    (model(projector={"source": HTTP}, serving={"mode": "Embed"}), "spec.projector", "mode Generate"),
    (model(quantization="tiny"), "spec.quantization", "Q4_K_M"),
    (model(serving={"contextLength": 4}), "spec.serving.contextLength", "minimum of 16"),
    (model(serving={"contextLength": 4194304}), "spec.serving.contextLength", "at most 4194304 cells"),
    (model(serving={"slots": 0}), "spec.serving.slots", "minimum of 1"),
    (model(serving={"kvCache": {"typeK": "int4"}}), "spec.serving.kvCache.typeK", "one of"),
    (model(serving={"contextLength": 64, "kvCache": {"cells": 32}}), "spec.serving.kvCache", "at least"),
    (model(serving={"flashAttention": "Disabled", "kvCache": {"typeV": "q4_0"}}), "spec.serving.kvCache", "flash"),
    (model(serving={"flashAttention": True}), "spec.serving.flashAttention", "must be a string"),
    (model(serving={"keepAlive": -1}), "spec.serving.keepAlive", "must be a string"),
    (model(serving={"keepAlive": "forever"}), "spec.serving.keepAlive", "-1"),
    (model(serving={"speculation": {"type": "Draft"}}), "spec.serving.speculation.draftModel", "required"),
    (model(resources={"memory": "lots"}), "spec.resources.memory", "6Gi"),
    (model(resources={"cpu": True}), "spec.resources.cpu", "an integer or a string"),
    (model(resources={"accelerator": {"vendor": "acme"}}), "spec.resources.accelerator.vendor", "nvidia"),
    (
        model(resources={"accelerator": {"vendor": "amd", "claim": {}}}),
        "spec.resources.accelerator.claim",
        "exactly one of",
    ),
    (
        model(resources={"accelerator": {"vendor": "amd", "count": 1, "claim": {"name": "x"}}}),
        "spec.resources.accelerator.claim",
        "excludes",
    ),
    (model(placement={"nodeSelector": {"a": 1}}), "spec.placement.nodeSelector.a", "must be a string"),
    (model(rollout={"strategy": "Fast"}), "spec.rollout.strategy", "Surge"),
    (model(rollout={"drainSeconds": 99999}), "spec.rollout.drainSeconds", "maximum of 3600"),
    (model(rollout={"canary": {"prompt": "2+2?"}}), "spec.rollout.canary.expect", "required"),
    (model(suspend="yes"), "spec.suspend", "true or false"),
    # Endpoints
    ({**endpoint(), "spec": {}}, "spec", "exactly one of models, selector"),
    (endpoint(selector={"matchLabels": {"a": "b"}}), "spec", "exactly one of models, selector"),
    (endpoint(models=[]), "spec.models", "minimum of 1"),
    (endpoint(models=[{"name": "m"}, {"name": "m"}]), "spec.models[1]", "repeats"),
    (endpoint(models=[{"name": "m", "aliases": ["x", "x"]}]), "spec.models[0].aliases[1]", "repeats"),
    (endpoint(models=[{"name": "m", "aliases": ["a b"]}]), "spec.models[0].aliases[0]", "does not match"),
    (endpoint(models=["m"]), "spec.models[0]", "must be an object"),
    ({**endpoint(), "spec": {"selector": {}}}, "spec.selector", "minimum of 1"),
    (
        {**endpoint(), "spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}},
        "spec.selector.matchExpressions[0].values",
        "required",
    ),
    (endpoint(auth={}), "spec.auth", "minimum of 1"),
    (endpoint(auth={"none": {}, "apiKeys": {}}), "spec.auth.none", "excludes"),
    (endpoint(auth={"none": True}), "spec.auth.none", "must be an object"),
    (endpoint(auth="none"), "spec.auth", "must be an object"),
    (endpoint(auth={"jwt": {"issuer": "i", "audience": "a", "jwksUrl": "http://x"}}), "spec.auth.jwt.jwksUrl", "match"),
    (endpoint(limits={"requestPerMinute": 1}), "spec.limits.requestPerMinute", "did you mean"),
    (endpoint(limits={"bodyBytes": 1}), "spec.limits.bodyBytes", "minimum of 1024"),
    (endpoint(apis=["grpc"]), "spec.apis[0]", "ollama"),
    (endpoint(apis=["ollama", "ollama"]), "spec.apis[1]", "repeats"),
    (endpoint(routing={"strategy": "LeastLoaded", "loadFactorPercent": 150}), "spec.routing", "PrefixAffinity"),
    (endpoint(management="On"), "spec.management", "Enabled"),
    (endpoint(service={"port": 70000}), "spec.service.port", "maximum of 65535"),
    (endpoint(service={"nodePort": 30000}), "spec.service.nodePort", "NodePort or LoadBalancer"),
    (endpoint(service={"loadBalancerClass": "x"}), "spec.service.loadBalancerClass", "LoadBalancer"),
    (endpoint(ingress={}), "spec.ingress.host", "required"),
    (endpoint(tls={"secretName": "A"}), "spec.tls.secretName", "does not match"),
    (endpoint(network={"allowFrom": [{}]}), "spec.network.allowFrom[0]", "minimum of 1"),
    (
        endpoint(network={"allowFrom": [{"cidr": "10.0.0.0/8", "podSelector": {}}]}),
        "spec.network.allowFrom[0].cidr",
        "two entries",
    ),
    # API keys
    (secret(sha256="pdk_00000000_secret"), "sha256", "never the key itself"),
    (secret(sha256=None), "stringData.sha256", "must be a string"),
    (secret(stringData=None), "sha256", "missing"),
    (secret(stringData=None, data={"sha256": "***"}), "data", "base64"),
    (secret(stringData={"key": "x"}), "stringData.key", "not a known field"),
    (secret("["), "policy", "JSON object"),
    (secret("[" * 100_000), "policy", "limit of 16384"),
    (policy(model=["x"]), "policy.model", "did you mean policy.models?"),
    (policy(models="*"), "policy.models", "list"),
    (policy(models=["a b"]), "policy.models[0]", "public model name"),
    (policy(verbs=["infr"]), "policy.verbs[0]", "did you mean infer?"),
    (policy(expires="tomorrow"), "policy.expires", "RFC 3339"),
    (policy(previous={"sha256": HEX}), "policy.previous", "until"),
    (policy(previous={"sha256": HEX, "until": None}), "policy.previous.until", "RFC 3339"),
]


@pytest.mark.parametrize(("document", "field", "words"), INVALID)
def test_refused_with_the_field_and_the_fix(schemas: Schemas, document: Any, field: str, words: str) -> None:
    found = problems(document, schemas)
    about = [problem for problem in found if problem.path == field]
    assert about, [str(problem) for problem in found]
    assert any(words in problem.message for problem in about), [str(problem) for problem in about]
    assert all("\n" not in str(problem) and len(str(problem)) < 800 for problem in found)


VALID: list[dict[str, Any]] = [
    model(),
    source(ollama={"name": "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"}),
    source(ollama={"name": "localhost:5000/team/model:v1", "digest": "sha256:" + HEX, "secretRef": {"name": "reg"}}),
    source(huggingFace={"repo": "Qwen/Qwen3-8B-GGUF", "file": "Qwen3-8B-Q4_K_M.gguf", "revision": "main"}),
    source(oci={"reference": "ghcr.io/acme/models/llama:1.0@sha256:" + HEX}),
    source(http={"url": "http://127.0.0.1:8080/m.gguf", "sha256": HEX}),
    source(http={"url": "https://[::1]:8443/a/b.gguf?x=1@2", "sha256": HEX}),
    source(claim={"claimName": "data", "path": "dir/m.gguf"}),
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
    {**model(), "status": {"nonsense": 1}},
    endpoint(),
    endpoint(models=[{"name": "m", "aliases": ["smollm2:135m", "hf.co/a/b:Q4"]}, {"name": "n"}]),
    {**endpoint(), "spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}},
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
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls"}, "type": "kubernetes.io/tls", "data": {"x": 1}},
]


@pytest.mark.parametrize("document", VALID)
def test_accepted(schemas: Schemas, document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    assert problems(document, schemas) == ()
    assert document == before


def test_the_examples_are_accepted(schemas: Schemas) -> None:
    files = sorted((ROOT / "examples").rglob("*.yaml"))
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    assert {document["kind"] for document in documents} >= {"Model", "Endpoint"}
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
    assert str(problem) == "Model default/m is declared 2 times; keep one of them or rename (metadata.name)"


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
