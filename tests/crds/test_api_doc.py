"""docs/reference/api.md says what the CRDs say: every field, every bound, every rule."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
from tests.crds.conftest import ROOT
from tests.crds.walk import nodes, schema_of


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api_doc", ROOT / "scripts" / "api_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_equals_the_crds(script: ModuleType) -> None:
    assert (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8") == script.page(), "run `make docs`"


@pytest.mark.parametrize("kind", ["Model", "Endpoint"])
def test_every_field_and_rule_is_on_the_page(script: ModuleType, crds: dict[str, dict[str, Any]], kind: str) -> None:
    section = script.section(crds[kind])
    for part in ("spec", "status"):
        for path, node in nodes(schema_of(crds[kind])["properties"][part], part):
            if "." in path and not path.endswith("[]"):
                assert f"`{path}`" in section, path
            for rule in node.get("x-kubernetes-validations", ()):
                assert rule["message"] in section
                assert rule["rule"] in section
    assert f"`{crds[kind]['spec']['names']['shortNames'][0]}`" in section


def test_rows_of_the_table(script: ModuleType, crds: dict[str, dict[str, Any]]) -> None:
    lines = script.section(crds["Model"]).splitlines()
    assert "| **`spec.source`** | object |  | Where the bytes come from. Exactly one member besides resolve. |" in lines
    replicas = next(line for line in lines if line.startswith("| `spec.replicas`"))
    assert replicas.startswith("| `spec.replicas` | integer | ≥ 0, ≤ 64 | Number of runners;")
    pattern = next(line for line in lines if line.startswith("| `spec.serving.keepAlive`"))
    assert "\\|" in pattern
    assert all(line.count("|") - line.count("\\|") == 5 for line in lines if line.startswith(("| `spec", "| **`spec")))
