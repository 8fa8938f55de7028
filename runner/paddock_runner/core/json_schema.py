"""JSON schemas as clients of language models mean them. Called by `api.constraints`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LISTED = ("anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "contains")
_NAMED = ("properties", "$defs", "definitions", "patternProperties")
# With these beside them, `properties` are not all that an object may have.
_OPEN = ("additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if")


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with objects that have the properties that it lists and no others, unless it says more about them.

    JSON Schema would allow any; llama.cpp and Ollama do not, and a small model would never come to an end. Schemas that
    are put together by `allOf` stay as they are: a part does not know the properties of the others.
    """
    return dict(schema) if _has_parts(schema) else _closed(schema)


def _has_parts(value: Any) -> bool:
    if isinstance(value, Mapping):
        parts = value.get("allOf")
        return (isinstance(parts, list) and len(parts) > 1) or any(map(_has_parts, value.values()))
    return isinstance(value, list) and any(map(_has_parts, value))


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _member(key, value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), Mapping) and not any(key in schema for key in _OPEN):
        found["additionalProperties"] = False
    return found


def _member(key: str, value: Any) -> Any:
    if key in _NAMED and isinstance(value, Mapping):
        return {name: _closed(item) for name, item in value.items()}
    if key in _LISTED and isinstance(value, list):
        return [_closed(item) for item in value]
    return _closed(value) if key in _SINGLE else value
