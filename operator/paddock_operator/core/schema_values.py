"""What an API server does to an object before it validates it: unknown fields, nulls, whole numbers.

Called by `schema.py`. A schema is a node of a CRD's structural schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paddock_operator.core.problems import Problem, path_text, unknown_field

Schema = Mapping[str, Any]
Path = tuple[Any, ...]
INT64 = 2**63
EXACT_FLOAT = 2**53


def unknown_fields(schema: Schema, value: Any, path: Path) -> Iterator[Problem]:
    """Fields that the schema does not have, wherever it is closed."""
    if isinstance(value, Mapping):
        if _closed(schema):
            known = sorted(schema.get("properties", {}))
            yield from (unknown_field(path_text(path), str(name), known) for name in value if name not in known)
        for name, item in value.items():
            child = child_schema(schema, name)
            if child is not None:
                yield from unknown_fields(child, item, (*path, name))
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from unknown_fields(schema["items"], item, (*path, index))


def _closed(schema: Schema) -> bool:
    return not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema


def child_schema(schema: Schema, name: Any) -> Schema | None:
    """The schema of a field of an object, or None where anything may stand."""
    found: Schema | None = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
    return found


def canonical(schema: Schema, value: Any) -> Any:
    """The value without nulls in described fields, with whole numbers as integers (as kubectl sends them)."""
    if isinstance(value, Mapping):
        return {name: _below(schema, name, item) for name, item in value.items() if _kept(schema, name, item)}
    if isinstance(value, list):
        return [canonical(schema["items"], item) for item in value] if "items" in schema else value
    return _number(value)


def _kept(schema: Schema, name: Any, item: Any) -> bool:
    return item is not None or child_schema(schema, name) is None


def _below(schema: Schema, name: Any, item: Any) -> Any:
    child = child_schema(schema, name)
    return item if child is None else canonical(child, item)


def _number(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_FLOAT:
        return int(value)
    too_large = isinstance(value, int) and not -INT64 <= value < INT64
    return _as_float(value) if too_large else value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
