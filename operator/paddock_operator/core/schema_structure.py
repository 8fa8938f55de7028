"""Check a value against a structural schema of a CRD, with the messages of the API server.

Called by `schema.py`. The rules are those of Kubernetes' own validator: a string gets one complaint at most (too
long, too short, pattern), bounds are looked at even where the type is wrong, patterns match whole values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from paddock_operator.core.clock import parse_time
from paddock_operator.core.problems import (
    INVALID,
    NOT_SUPPORTED,
    REQUIRED,
    TOO_LONG,
    TOO_MANY,
    WRONG_TYPE,
    Problem,
    path_text,
    suggestion,
    worded,
)
from paddock_operator.core.schema_values import Path, Schema, child_schema
from paddock_operator.core.shown import float_text, quoted, shown, type_fix, type_name

MAX_ABOUT = 200


def structural_problems(schema: Schema, value: Any, path: Path) -> Iterator[Problem]:
    """All structural problems of a value that stands at `path` in its document."""
    yield from _type(schema, value, path)
    if isinstance(value, str):
        yield from _string(schema, value, path_text(path))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(schema, value, path_text(path))
    elif isinstance(value, list):
        yield from _list(schema, value, path)
    elif isinstance(value, Mapping):
        yield from _object(schema, value, path)
    yield from _enum(schema, value, path_text(path))


def _type(schema: Schema, value: Any, path: Path) -> Iterator[Problem]:
    wanted = "integer,string" if schema.get("x-kubernetes-int-or-string") else schema.get("type")
    found = type_name(value)
    fits = wanted is None or found in wanted.split(",") or (found == "integer" and wanted == "number")
    if wanted is not None and (not fits or _endless(value)):
        where = path_text(path)
        detail = f"{quoted(found)}: {where} in body must be of type {wanted}: {quoted(found)}"
        yield worded(WRONG_TYPE, where, detail, type_fix(wanted, value))


def _endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _string(schema: Schema, value: str, where: str) -> Iterator[Problem]:
    longest, shortest, pattern = schema.get("maxLength"), schema.get("minLength"), schema.get("pattern")
    if longest is not None and len(value) > longest:
        fix = f"it has {len(value)} characters, shorten it"
        yield worded(TOO_LONG, where, f"may not be more than {longest} bytes", fix)
    elif shortest is not None and len(value) < shortest:
        detail = f"{quoted(value)}: {where} in body should be at least {shortest} chars long"
        yield worded(INVALID, where, detail, "lengthen it or remove it")
    elif pattern is not None and not re.fullmatch(pattern, value):
        detail = f"{quoted(value)}: {where} in body should match '{pattern}'"
        yield worded(INVALID, where, detail, f"write it as described ({_about(schema)})")
    if schema.get("format") == "date-time" and not _is_time(value):
        detail = f"{quoted(value)}: {where} in body must be of type date-time: {quoted(value)}"
        yield worded(WRONG_TYPE, where, detail, "write a time such as 2026-12-31T00:00:00Z")


def _is_time(value: str) -> bool:
    try:
        return bool(parse_time(value))
    except ValueError:
        return False


def _number(schema: Schema, value: float, where: str) -> Iterator[Problem]:
    above, below = schema.get("maximum"), schema.get("minimum")
    if above is not None and value > above:
        detail = f"{shown(value)}: {where} in body should be less than or equal to {_limit(above, value)}"
        yield worded(INVALID, where, detail, "lower it")
    if below is not None and value < below:
        detail = f"{shown(value)}: {where} in body should be greater than or equal to {_limit(below, value)}"
        yield worded(INVALID, where, detail, "raise it")


def _limit(limit: float, value: float) -> str:
    return str(int(limit)) if isinstance(value, int) else float_text(float(limit))


def _list(schema: Schema, value: list[Any], path: Path) -> Iterator[Problem]:
    where, least, most = path_text(path), schema.get("minItems"), schema.get("maxItems")
    if least is not None and len(value) < least:
        detail = f"{len(value)}: {where} in body should have at least {least} items"
        yield worded(INVALID, where, detail, "add one or remove the field")
    if most is not None and len(value) > most:
        yield worded(TOO_MANY, where, f"{len(value)}: must have at most {most} items", "remove some")
    for index, item in enumerate(value if "items" in schema else ()):
        yield from structural_problems(schema["items"], item, (*path, index))


def _object(schema: Schema, value: Mapping[Any, Any], path: Path) -> Iterator[Problem]:
    yield from _properties(schema, value, path_text(path))
    for name in schema.get("required", ()):
        if name not in value:
            about = _about(schema["properties"][name])
            yield Problem(path_text((*path, name)), "Required value", f"add it ({about})", REQUIRED)
    for name, item in value.items():
        child = child_schema(schema, name)
        if child is not None:
            yield from structural_problems(child, item, (*path, name))


def _properties(schema: Schema, value: Mapping[Any, Any], where: str) -> Iterator[Problem]:
    least, most = schema.get("minProperties"), schema.get("maxProperties")
    if least is not None and len(value) < least:
        detail = f"{len(value)}: {where} in body should have at least {least} properties"
        yield worded(INVALID, where, detail, "add one or remove the field")
    if most is not None and len(value) > most:
        yield worded(TOO_MANY, where, f"{len(value)}: must have at most {most} items", "remove some")


def _enum(schema: Schema, value: Any, where: str) -> Iterator[Problem]:
    choices = schema.get("enum")
    if choices is None or value in choices:
        return
    nearest = suggestion(value, choices) if isinstance(value, str) else None
    fix = f"did you mean {nearest}?" if nearest else "use one of them"
    supported = ", ".join(quoted(choice) for choice in choices)
    yield worded(NOT_SUPPORTED, where, f"{shown(value)}: supported values: {supported}", fix)


def _about(schema: Schema) -> str:
    return str(schema.get("description", "")).rstrip(".")[:MAX_ABOUT]
