"""Which objects of a schema are closed."""

from __future__ import annotations

from typing import Any

import pytest

from paddock_runner.core.json_schema import closed

A: dict[str, Any] = {"properties": {"a": {"type": "integer"}}}
SHUT = {**A, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": "object"}, {"type": "object"}),
        (A, SHUT),
        ({**A, "additionalProperties": True}, {**A, "additionalProperties": True}),
        ({**A, "additionalProperties": A}, {**A, "additionalProperties": SHUT}),
        ({**A, "patternProperties": {"x": A}}, {**A, "patternProperties": {"x": SHUT}}),
        ({"items": A, "prefixItems": [A]}, {"items": SHUT, "prefixItems": [SHUT]}),
        ({"anyOf": [A, {"$ref": "#"}], "$defs": {"b": A}}, {"anyOf": [SHUT, {"$ref": "#"}], "$defs": {"b": SHUT}}),
        ({**A, "anyOf": [A]}, {**A, "anyOf": [SHUT]}),
        ({"properties": {"properties": A}}, {"properties": {"properties": SHUT}, "additionalProperties": False}),
        ({"allOf": [A, {"properties": {"b": {}}}]}, {"allOf": [A, {"properties": {"b": {}}}]}),
        ({"const": A, "enum": [A], "default": A}, {"const": A, "enum": [A], "default": A}),
        ({"properties": 5, "items": "x"}, {"properties": 5, "items": "x"}),
    ],
)  # fmt: skip
def test_closed(schema: dict[str, Any], found: dict[str, Any]) -> None:
    assert closed(schema) == found
