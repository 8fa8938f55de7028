"""The parts of a CRD that a JSON Schema validator does not know: CEL rules, list-maps and sets.

Called by `schema.py` after the structure was found sound, as an API server does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cel

from paddock_operator.core.problems import Problem, path_text, shown

Schema = Mapping[str, Any]
Path = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled `x-kubernetes-validations` entry."""

    program: Any
    message: str
    field_path: str


Rules = Mapping[str, Rule]


def compile_rules(schema: Schema) -> dict[str, Rule]:
    """Compile every rule below a schema once, keyed by its expression. Raises ValueError if one does not compile."""
    return {entry["rule"]: _compiled(entry) for node in _nodes(schema) for entry in _entries(node)}


def _compiled(entry: Mapping[str, str]) -> Rule:
    return Rule(cel.compile(entry["rule"]), entry["message"], entry.get("fieldPath", ""))


def _entries(schema: Schema) -> list[Mapping[str, str]]:
    return list(schema.get("x-kubernetes-validations", ()))


def _nodes(schema: Schema) -> Iterator[Schema]:
    yield schema
    children = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for child in children:
        if isinstance(child, Mapping):
            yield from _nodes(child)


def rule_problems(schema: Schema, rules: Rules, value: Any, path: Path) -> list[Problem]:
    """What the rules, list-map keys and sets say about a value whose structure is sound. `path`: where it stands."""
    found: list[Problem] = []
    for node, item, where in _visit(schema, value, path):
        found.extend(_broken_rules(node, rules, item, where))
        found.extend(_duplicate_entries(node, item, where))
    return found


def _visit(schema: Schema, value: Any, path: Path) -> Iterator[tuple[Schema, Any, Path]]:
    yield schema, value, path
    if isinstance(value, Mapping):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from _visit(child, value[name], (*path, name))
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _visit(schema["items"], item, (*path, index))


def _broken_rules(schema: Schema, rules: Rules, value: Any, path: Path) -> Iterator[Problem]:
    for entry in _entries(schema):
        rule = rules[entry["rule"]]
        if not _holds(rule, value):
            yield Problem(path_text(path) + rule.field_path, rule.message)


def _holds(rule: Rule, value: Any) -> bool:
    # a rule that cannot be evaluated refuses the object, as on an API server
    try:
        return rule.program.execute({"self": value}) is True
    except (RuntimeError, ValueError, TypeError):
        return False


def _duplicate_entries(schema: Schema, value: Any, path: Path) -> Iterator[Problem]:
    kind = schema.get("x-kubernetes-list-type")
    if kind not in ("map", "set"):
        return
    keys = schema.get("x-kubernetes-list-map-keys", ())
    first: dict[str, int] = {}
    for index, item in enumerate(value):
        identity = shown([item.get(key) for key in keys] if kind == "map" else item)
        where = path_text((*path, index))
        if identity in first:
            what = ", ".join(f"{key} {shown(item.get(key))}" for key in keys) if kind == "map" else shown(item)
            yield Problem(where, f"{where} repeats {what} of {path_text((*path, first[identity]))}; remove one of them")
        first.setdefault(identity, index)
