"""Hypothesis strategies that make values from a CRD's schema: sound in structure, unions chosen by the rules' text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]
EXACTLY_ONE = re.compile(
    r"^\[(has\(self\.\w+\)(?:, has\(self\.\w+\))*)\]\.filter|^(has\(self\.\w+\) != has\(self\.\w+\))$"
)
MAX_FIELDS = 3
MAX_ENTRIES = 3

# what JSON and YAML both carry unchanged in the encoding that clients use
TEXT = st.characters(codec="utf-8", max_codepoint=0xD7FF, exclude_categories=("Cs", "Cc", "Co", "Cn"))
KEYS = st.from_regex(r"\A[a-z]{1,8}\Z")
FREE = st.recursive(
    st.booleans() | st.integers(0, 9) | KEYS,
    lambda below: st.lists(below, max_size=2) | st.dictionaries(KEYS, below, max_size=2),
    max_leaves=4,
)


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values whose structure fits; CEL rules other than unions may be broken."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return _integers(schema) | _strings(schema)
    makers = {"string": _strings, "integer": _integers, "number": _numbers, "array": _lists, "object": _objects}
    return st.booleans() if schema["type"] == "boolean" else makers[schema["type"]](schema)


def _strings(schema: Schema) -> st.SearchStrategy[str]:
    least, most = schema.get("minLength", 0), schema.get("maxLength", 20)
    if schema.get("format") == "date-time":
        return st.just("2026-01-01T00:00:00Z")
    if "pattern" in schema:
        inner = schema["pattern"].removeprefix("^").removesuffix("$")
        return st.from_regex(rf"\A(?:{inner})\Z").filter(lambda text: least <= len(text) <= most)
    return st.text(TEXT, min_size=least, max_size=min(most, least + 20))


def _integers(schema: Schema) -> st.SearchStrategy[int]:
    return st.integers(schema["minimum"], schema.get("maximum", 2**31 - 1))


def _numbers(schema: Schema) -> st.SearchStrategy[float]:
    return st.floats(schema["minimum"], schema.get("maximum", 1e6), allow_nan=False)


def _lists(schema: Schema) -> st.SearchStrategy[list[Any]]:
    least = schema.get("minItems", 0)
    most = min(schema["maxItems"], max(least, MAX_ENTRIES))
    kind = schema["x-kubernetes-list-type"]
    keys = schema.get("x-kubernetes-list-map-keys", ())
    unique = {
        "map": lambda item: tuple(item[key] for key in keys),
        "set": lambda item: item,
    }.get(kind)
    return st.lists(values(schema["items"]), min_size=least, max_size=most, unique_by=unique)


def _objects(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(KEYS, FREE, max_size=min(schema["maxProperties"], 3))
    if "additionalProperties" in schema:
        return st.dictionaries(KEYS, values(schema["additionalProperties"]), max_size=3)
    return _described(schema)


@st.composite
def _described(draw: st.DrawFn, schema: Schema) -> dict[str, Any]:
    properties, required = schema.get("properties", {}), list(schema.get("required", ()))
    members = _union(schema)
    chosen = draw(st.sampled_from(members)) if members else None
    optional = [name for name in properties if name not in members and name not in required]
    least = max(schema.get("minProperties", 0) - len(required) - bool(chosen), 0)
    extra = (
        draw(st.lists(st.sampled_from(optional), min_size=least, max_size=MAX_FIELDS, unique=True)) if optional else []
    )
    names = [*required, *([chosen] if chosen else []), *extra]
    return {name: draw(values(properties[name])) for name in properties if name in names}


def _union(schema: Schema) -> list[str]:
    for entry in schema.get("x-kubernetes-validations", ()):
        found = EXACTLY_ONE.match(entry["rule"])
        if found:
            return re.findall(r"self\.(\w+)", found[1] or found[2])
    return []
