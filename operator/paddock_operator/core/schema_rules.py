"""CEL rules of a CRD, evaluated locally with the API server's messages.

Called by `schema.py` for objects in which nothing blocks the rules, as an API server does it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.problems import FORBIDDEN, INVALID, Problem, path_text, worded
from paddock_operator.core.schema_values import Path, Schema, child_schema


def _evaluator() -> Any:
    # the package imports its own command line with a terminal toolkit, half a second that nobody here needs
    stand_in = sys.modules.setdefault("cel.cli", types.ModuleType("cel.cli"))
    import cel

    if not hasattr(stand_in, "__file__"):
        del sys.modules["cel.cli"]
    return cel


cel = _evaluator()


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled `x-kubernetes-validations` entry."""

    program: Any
    message: str
    field_path: str
    reason: str


Rules = Mapping[tuple[str, str], Rule]


def compile_rules(schema: Schema) -> dict[tuple[str, str], Rule]:
    """Compile every rule below a schema once, keyed by expression and message. Raises ValueError if one does not."""
    return {(entry["rule"], entry["message"]): _compiled(entry) for node in _nodes(schema) for entry in _entries(node)}


def _compiled(entry: Mapping[str, str]) -> Rule:
    reason = entry.get("reason", INVALID)
    return Rule(cel.compile(entry["rule"]), entry["message"], entry.get("fieldPath", ""), reason)


def _entries(schema: Schema) -> list[Mapping[str, str]]:
    return list(schema.get("x-kubernetes-validations", ()))


def _nodes(schema: Schema) -> Iterator[Schema]:
    yield schema
    children = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for child in children:
        if isinstance(child, Mapping):
            yield from _nodes(child)


def rule_problems(schema: Schema, rules: Rules, value: Any, path: Path) -> Iterator[Problem]:
    """What the rules say about a value whose types are right. `path`: where it stands."""
    for entry in _entries(schema):
        yield from _broken(rules[entry["rule"], entry["message"]], value, path_text(path))
    if isinstance(value, Mapping):
        for name, item in value.items():
            child = child_schema(schema, name)
            if child is not None:
                yield from rule_problems(child, rules, item, (*path, name))
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from rule_problems(schema["items"], rules, item, (*path, index))


def _broken(rule: Rule, value: Any, where: str) -> Iterator[Problem]:
    # a rule that cannot be evaluated refuses the object, as on an API server
    try:
        holds, why = rule.program.execute({"self": value}) is True, ""
    except (RuntimeError, ValueError, TypeError) as error:
        holds, why = False, str(error)
    if why:
        yield worded(INVALID, where, f'"object": {why} evaluating rule: {rule.message}', "")
    elif not holds:
        reason = FORBIDDEN if rule.reason == FORBIDDEN else INVALID
        yield worded(reason, where + rule.field_path, rule.message, "")
