"""The dataclasses of the specs and the CRDs have the same fields, types and required ones, at every depth."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pytest

from paddock_operator.core.endpoint_spec import EndpointSpec
from paddock_operator.core.model_spec import ModelSpec
from paddock_operator.core.resources import KeyRecord, Model, parse, reference
from paddock_operator.core.wire import build, hints, name_in_wire, to_wire

SCALARS = {"string": str, "integer": int, "number": float, "boolean": bool}


@pytest.mark.parametrize(("kind", "cls"), [("Model", ModelSpec), ("Endpoint", EndpointSpec)])
def test_types_equal_the_schema(crds: dict[str, Any], kind: str, cls: type) -> None:
    schema = crds[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert differences(cls, schema, "spec") == []


def differences(cls: Any, schema: Mapping[str, Any], path: str) -> list[str]:
    declared = {name_in_wire(cls, item.name): item for item in fields(cls)}
    found = [f"{path}.{name}" for name in set(declared) ^ set(schema.get("properties", {}))]
    for name, child in schema.get("properties", {}).items():
        if name in declared:
            required = declared[name].default is MISSING and declared[name].default_factory is MISSING
            if required != (name in schema.get("required", ())):
                found.append(f"{path}.{name} required")
            found.extend(mismatch(hints(cls)[declared[name].name], child, f"{path}.{name}"))
    return found


def mismatch(hint: Any, schema: Mapping[str, Any], path: str) -> list[str]:
    members = set(typing.get_args(hint)) - {types.NoneType} if typing.get_origin(hint) is types.UnionType else {hint}
    if "x-kubernetes-int-or-string" in schema or members == {int, str}:
        # a string-only schema may have a str hint, an int-or-string one has both
        return [] if members in ({int, str}, {str}) else [path]
    (plain,) = members
    if schema["type"] in SCALARS:
        return [] if plain is SCALARS[schema["type"]] else [path]
    if schema["type"] == "array":
        (item, _) = typing.get_args(plain)
        return mismatch(item, schema["items"], f"{path}[]")
    if is_dataclass(plain):
        return differences(plain, schema, path)
    return [] if typing.get_origin(plain) is Mapping else [path]


FULL = {
    "source": {"ollama": {"name": "smollm2:135m", "secretRef": {"name": "s"}}, "resolve": "1"},
    "parameters": {"num_ctx": 2048, "temperature": 1, "stop": ["a", "b"]},
    "messages": [{"role": "user", "content": "hi"}],
    "serving": {"kvCache": {"typeK": "q8_0"}, "keepAlive": "5m"},
    "placement": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists", "tolerationSeconds": 3}]},
    "suspend": False,
}


def test_a_spec_survives_the_way_there_and_back() -> None:
    spec = build(ModelSpec, FULL)
    assert to_wire(spec) == FULL
    assert isinstance(spec.parameters and spec.parameters.temperature, float)
    assert build(EndpointSpec, {"auth": {"none": {}}}).auth is not None


def test_parse_model_and_key() -> None:
    document = {
        "kind": "Model",
        "metadata": {"name": "a.b", "generation": 3, "labels": {"x": "y"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"source": {"http": {"url": "https://h/x.gguf", "sha256": "0" * 64}}},
    }
    model = parse(document)
    assert isinstance(model, Model)
    assert (str(model.ref), model.generation, model.labels) == ("Model default/a.b", 3, {"x": "y"})
    secret = {
        "kind": "Secret",
        "type": "paddock.dev/api-key",
        "metadata": {"name": "first", "namespace": "team"},
        "data": {"sha256": "YWJj", "policy": "eyJtb2RlbHMiOiBbImEiXSwgImV4cGlyZXMiOiBudWxsfQ=="},
    }
    assert parse(secret) == KeyRecord("team/first", "abc", models=("a",))
    with pytest.raises(ValueError, match="no parsed form"):
        parse({"kind": "Secret", "metadata": {"name": "x"}})
    assert reference(secret).namespace == "team"
