"""The CRD files themselves: structural, described, bounded, and within what an API server accepts."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from tests.crds.walk import nodes, schema_of

from paddock_operator.core.schema_rules import compile_rules

Crds = dict[str, dict[str, Any]]
KNOWN_KEYS = {
    "description", "type", "format", "enum", "pattern", "properties", "required", "items", "additionalProperties",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
    "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
}  # fmt: skip
# functions of Kubernetes' own CEL libraries, which the local evaluator does not have
EXTENSIONS = re.compile(
    r"\b(quantity|url|isURL|isQuantity|ip|cidr|optional|format|isSorted|sum|indexOf|find|findAll|split|replace|"
    r"lowerAscii|upperAscii|trim|substring|join|sets|authorizer|oldSelf)\b\s*[(.]"
)


def all_nodes(crds: Crds) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for kind, crd in crds.items():
        for part in ("spec", "status"):
            found.extend((f"{kind}.{path}", node) for path, node in nodes(schema_of(crd)["properties"][part], part))
    return found


def test_identity_of_the_two_kinds(crds: Crds) -> None:
    assert set(crds) == {"Model", "Endpoint"}
    for crd in crds.values():
        spec, names = crd["spec"], crd["spec"]["names"]
        assert (crd["apiVersion"], spec["group"], spec["scope"]) == (
            "apiextensions.k8s.io/v1",
            "paddock.dev",
            "Namespaced",
        )
        assert crd["metadata"]["name"] == f"{names['plural']}.{spec['group']}"
        assert names["shortNames"]
        assert names["categories"]
        (version,) = spec["versions"]
        assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
        scale = version["subresources"]["scale"]
        assert scale["specReplicasPath"] == ".spec.replicas"
        assert scale["statusReplicasPath"] == ".status.replicas"
        assert scale["labelSelectorPath"] == ".status.selector"


def test_every_node_is_described_and_has_only_known_keys(crds: Crds) -> None:
    """The one default is that of a status which nobody has written yet: it can never change."""
    allowed = {f"{kind}.status": KNOWN_KEYS | {"default"} for kind in crds}
    unknown = {path: set(node) - allowed.get(path, KNOWN_KEYS) for path, node in all_nodes(crds)}
    assert [path for path, node in all_nodes(crds) if not node.get("description") or unknown[path]] == []


def test_every_size_is_bounded(crds: Crds) -> None:
    assert [path for path, node in all_nodes(crds) if not bounded(node, path)] == []


def bounded(node: dict[str, Any], path: str) -> bool:
    kind = node.get("type")
    if kind == "string":
        return "maxLength" in node or "enum" in node
    if kind == "array":
        return "maxItems" in node and "x-kubernetes-list-type" in node
    if kind in ("integer", "number"):
        return "minimum" in node and ("maximum" in node or ".status." in path)
    if kind == "object" and ("additionalProperties" in node or "x-kubernetes-preserve-unknown-fields" in node):
        return "maxProperties" in node
    if "x-kubernetes-int-or-string" in node:
        return {"minimum", "maximum", "maxLength", "pattern"} <= set(node)
    return kind in ("object", "boolean")


def test_structural_rules_of_an_api_server(crds: Crds) -> None:
    for path, node in all_nodes(crds):
        assert "default" not in node or path.endswith(".status"), f"{path}: defaults belong to the planning core"
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert set(node.get("required", ())) <= set(node.get("properties", {})), path
        if node.get("x-kubernetes-list-type") == "map":
            keys = set(node["x-kubernetes-list-map-keys"])
            assert keys <= set(node["items"]["required"]), path
        if node.get("x-kubernetes-list-type") == "set":
            assert node["items"]["type"] == "string", path


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_every_section_of_spec_has_one_owner(crds: Crds, kind: str) -> None:
    spec = schema_of(crds[kind])["properties"]["spec"]
    sections = {path: node for path, node in nodes(spec) if path and node.get("type") == "object"}
    atomic = [path for path, node in sections.items() if node.get("x-kubernetes-map-type") == "atomic"]
    covered = tuple(f"{path}." for path in atomic)
    # an entry of a list-map is shared by its fields; all else is replaced whole by who applies it
    shared = {path for path in sections if path not in atomic and not path.startswith(covered)}
    assert {path for path in shared if not path.endswith("[]")} == set()


def test_patterns_are_anchored_and_compile(crds: Crds) -> None:
    for path, node in all_nodes(crds):
        pattern = node.get("pattern")
        if pattern is not None:
            assert pattern.startswith("^"), path
            assert pattern.endswith("$"), path
            re.compile(pattern)
            # Go's regexp refuses repetitions above 1000
            assert all(int(number) <= 1000 for number in re.findall(r"\{\d*,?(\d+)\}", pattern)), path


def test_rules_use_the_core_language_and_say_the_fix(crds: Crds) -> None:
    rules = [(path, rule) for path, node in all_nodes(crds) for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) >= 25
    for path, rule in rules:
        assert not EXTENSIONS.search(rule["rule"]), path
        assert compile_rules({"x-kubernetes-validations": [rule]})
        assert "spec" in rule["message"] or "matchExpressions" in rule["message"], path
        assert ";" in rule["message"], f"{path}: the message names no fix"
        assert len(rule["message"]) <= 300, path


def test_field_paths_of_rules_exist(crds: Crds) -> None:
    for path, node in all_nodes(crds):
        for rule in node.get("x-kubernetes-validations", ()):
            target = rule.get("fieldPath", "").lstrip(".")
            assert not target or target in node["properties"], f"{path}: {target}"


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_printer_columns_point_at_fields_of_the_schema(crds: Crds, kind: str) -> None:
    schema = schema_of(crds[kind])
    columns = crds[kind]["spec"]["versions"][0]["additionalPrinterColumns"]
    assert {"Ready", "Reason", "Age"} <= {column["name"] for column in columns}
    for column in columns:
        path = column["jsonPath"]
        if path.startswith((".metadata", ".status.conditions[")):
            continue
        node = schema
        for part in path.strip(".").split("."):
            node = node["properties"][part]
        assert node["type"] == column["type"], path


def test_the_evaluator_is_loaded_without_its_command_line() -> None:
    code = (
        "import sys, paddock_operator.core.schema_rules as rules; "
        "assert not {'prompt_toolkit', 'typer', 'cel.cli'} & set(sys.modules); "
        "assert rules.cel.evaluate('1 + 1', {}) == 2"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
