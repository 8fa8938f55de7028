"""Manifests made from the schemas: both sides accept the same ones, and applying one again changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tests.crds.kube import Kube, Verdict, path_of, read, verdict
from tests.crds.manifests import HTTP, endpoint, model, selecting, source
from tests.crds.valid_values import values
from tests.crds.walk import schema_of
from tests.support.apiserver import ApiServer

from paddock_operator.core.endpoint_spec import EndpointSpec
from paddock_operator.core.model_spec import ModelSpec
from paddock_operator.core.problems import Problem
from paddock_operator.core.schema import Schemas, problems, status_problems
from paddock_operator.core.wire import build, to_wire

Document = dict[str, Any]
Crds = dict[str, dict[str, Any]]
CLASSES: dict[str, type] = {"Model": ModelSpec, "Endpoint": EndpointSpec}
APPLY = "?fieldManager=git&force=true&fieldValidation=Strict"


def run(examples: int) -> settings:
    quick = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=examples, deadline=None, suppress_health_check=quick, phases=phases, derandomize=True)


def manifest(kind: str, spec: Mapping[str, Any], namespace: str, name: str = "x") -> Document:
    metadata = {"name": name, "namespace": namespace, "labels": {"app": "x"}, "annotations": {"note": "ü"}}
    return {"apiVersion": "paddock.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def apply(kube: Kube, document: Document, options: str = "") -> tuple[int, Any]:
    address = path_of(document, document["metadata"]["namespace"], document["metadata"]["name"]) + APPLY + options
    return kube.request("PATCH", address, document, "application/apply-patch+yaml")


def repaired(document: Document, schemas: Schemas) -> Document | None:
    """The document without the fields that rules complain about; None if that does not help."""
    for _ in range(8):
        found = problems(document, schemas)
        if not found:
            return document
        if not _removed(document, found[0]):
            return None
    return None


def _removed(document: Document, problem: Problem) -> bool:
    parts = problem.path.replace("[", ".").replace("]", "").split(".")
    where: Any = document
    for part in parts[:-1]:
        where = where[int(part)] if isinstance(where, list) else where[part]
    return isinstance(where, dict) and parts[-1] != "spec" and where.pop(parts[-1], None) is not None


@st.composite
def spoiled(draw: st.DrawFn, spec: Any) -> Any:
    """The spec with one odd value somewhere in it."""
    if isinstance(spec, dict) and spec and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(spec)))
        return {**spec, name: draw(spoiled(spec[name]))}
    if isinstance(spec, list) and spec and draw(st.integers(0, 9)):
        return [draw(spoiled(spec[0])), *spec[1:], *draw(st.sampled_from([[], spec[:1]]))]
    return draw(
        st.sampled_from([None, "", "é \U0001f999", -1, 10**12, 2**70, True, [], [None], {}, {"odd": 1}, 0.5, "0s"])
    )


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_both_have_the_same_opinion_of_made_manifests(
    kube: Kube, namespace: str, schemas: Schemas, crds: Crds, kind: str
) -> None:
    seen: Counter[bool] = Counter()

    @run(40)
    @given(spec=values(schema_of(crds[kind])["properties"]["spec"]))
    def compare(spec: Document) -> None:
        document = manifest(kind, spec, namespace)
        ours = said(document, schemas)
        assert read(*apply(kube, document, "&dryRun=All")) == Verdict(not ours, ours)
        seen[not ours] += 1

    compare()
    assert seen[True] >= 20, seen


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_both_have_the_same_opinion_of_spoiled_manifests(
    kube: Kube, namespace: str, schemas: Schemas, crds: Crds, kind: str
) -> None:
    seen: Counter[bool] = Counter()

    @run(120)
    @given(spec=values(schema_of(crds[kind])["properties"]["spec"]).flatmap(spoiled))
    def compare(spec: Any) -> None:
        document = {**manifest(kind, {}, namespace), "spec": spec}
        ours, theirs = said(document, schemas), verdict(kube, document, namespace)
        assert theirs.accepted == (not ours)
        assert theirs.complaints <= ours
        assert theirs.stopped or theirs.complaints == ours
        seen[theirs.accepted] += 1

    compare()
    assert seen[False] >= 60, seen


def said(document: Document, schemas: Schemas) -> frozenset[tuple[str, str]]:
    return frozenset((problem.path, problem.message) for problem in problems(document, schemas))


def without_version(document: Document) -> Document:
    ignored = ("resourceVersion", "managedFields")
    return {**document, "metadata": {key: item for key, item in document["metadata"].items() if key not in ignored}}


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_applying_twice_changes_nothing(kube: Kube, namespace: str, schemas: Schemas, crds: Crds, kind: str) -> None:
    made: list[Document] = []

    @run(110)
    @given(spec=values(schema_of(crds[kind])["properties"]["spec"]))
    def round_trip(spec: Document) -> None:
        document = repaired(manifest(kind, spec, namespace, f"x{len(made)}"), schemas)
        assume(document is not None)
        assert document is not None
        made.append(document)
        made_now, first, again = (stored(kube, document) for _ in range(3))
        # The second one stores the default of status, which the first one showed already.
        assert without_version(first) == without_version(made_now)
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        assert first["spec"] == document["spec"]
        back = stored(kube, manifest(kind, first["spec"], namespace, document["metadata"]["name"]))
        assert back["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        known = build(CLASSES[kind], first["spec"])
        assert to_wire(known) == kept(first["spec"], schema_of(crds[kind])["properties"]["spec"])
        assert build(CLASSES[kind], to_wire(known)) == known

    round_trip()
    assert len(made) >= 100


def stored(kube: Kube, document: Document) -> Document:
    status, answer = apply(kube, document)
    assert status in (200, 201), answer
    return dict(answer)


def kept(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value without what means the same as nothing: empty lists and empty free maps of described objects."""
    if isinstance(value, list) and "items" in schema:
        return [kept(item, schema["items"]) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    below = {name: kept(item, schema["properties"][name]) for name, item in value.items()}
    return {name: item for name, item in below.items() if not means_nothing(item, schema["properties"][name])}


def means_nothing(value: Any, schema: Mapping[str, Any]) -> bool:
    free = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    return value == [] or (value == {} and bool(free))


def test_nulls_and_floats_leave_no_difference(
    kube: Kube, apiserver: ApiServer, namespace: str, schemas: Schemas
) -> None:
    spec = {"source": {"ollama": {"name": "x"}, "http": None}, "suspend": None, "parameters": {"temperature": 1.0}}
    document = manifest("Model", spec, namespace)
    assert problems(document, schemas) == ()
    for _ in range(2):
        apiserver.kubectl("apply", "-f", "-", input=json.dumps(document))
    status, live = kube.request("GET", path_of(document, namespace, "x"))
    assert (status, live["metadata"]["generation"]) == (200, 1)
    assert live["spec"] == {"source": {"ollama": {"name": "x"}}, "parameters": {"temperature": 1}}
    assert build(ModelSpec, live["spec"]) == build(ModelSpec, spec)


CHANGES: list[tuple[Document, Document]] = [
    (endpoint()["spec"], selecting(matchLabels={"a": "b"})["spec"]),
    (selecting(matchLabels={"a": "b"})["spec"], endpoint()["spec"]),
    (endpoint(auth={"apiKeys": {"names": ["a"]}})["spec"], endpoint(auth={"apiKeys": {}})["spec"]),
    (endpoint(auth={"apiKeys": {"names": ["a"]}})["spec"], endpoint(auth={"none": {}})["spec"]),
    (endpoint(routing={"strategy": "LeastLoaded"})["spec"], endpoint(routing={})["spec"]),
    (endpoint(network={"allowFrom": [{"cidr": "10.0.0.0/8"}]})["spec"], endpoint(network={})["spec"]),
    (model()["spec"], source(**HTTP)["spec"]),
    (model(replicas=1)["spec"], model(scaling={"maxReplicas": 2})["spec"]),
    (model(parameters={"top_k": 1})["spec"], model(parameters={})["spec"]),
    (model(adapters=[{"name": "a", "source": HTTP}])["spec"], model()["spec"]),
    (
        model(adapters=[{"name": "a", "source": HTTP}])["spec"],
        model(adapters=[{"name": "a", "source": {"oci": {"reference": "ghcr.io/a/b"}}}])["spec"],
    ),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_server_side_apply_replaces_a_section(kube: Kube, namespace: str, before: Document, after: Document) -> None:
    kind = "Model" if "source" in before else "Endpoint"
    stored(kube, manifest(kind, before, namespace))
    assert stored(kube, manifest(kind, after, namespace))["spec"] == after


def test_a_section_has_one_owner_and_replicas_another(kube: Kube, apiserver: ApiServer, namespace: str) -> None:
    document = manifest("Model", model(serving={"slots": 2})["spec"], namespace)
    stored(kube, document)
    apiserver.kubectl("scale", "models/x", "-n", namespace, "--replicas=3")
    again = stored(kube, document)
    assert (again["spec"]["replicas"], again["metadata"]["generation"]) == (3, 2)
    other = manifest("Model", {"serving": {"contextLength": 64}}, namespace)
    address = path_of(other, namespace, "x") + "?fieldManager=tuner"
    status, answer = kube.request("PATCH", address, other, "application/apply-patch+yaml")
    assert (status, answer["details"]["causes"][0]["field"]) == (409, ".spec.serving")


@given(data=st.data())
@run(100)
def test_statuses_made_from_the_schema_fit_it(schemas: Schemas, crds: Crds, data: st.DataObject) -> None:
    for kind, crd in crds.items():
        status = data.draw(values(schema_of(crd)["properties"]["status"]))
        assert status_problems(kind, status, schemas) == ()
