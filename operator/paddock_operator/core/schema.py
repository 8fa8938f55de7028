"""Check manifests against the CRDs, on a machine without an API server, with messages for people.

Called by `paddock up` for every document it reads (`problems`, `duplicates`), and by tests for every status that is
planned (`status_problems`). The CRDs are given as parsed documents: nothing here reads files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.problems import (
    BLOCKING,
    INVALID,
    LOCAL,
    REQUIRED,
    Problem,
    suggestion,
    unknown_field,
    worded,
)
from paddock_operator.core.resources import API_VERSION, Ref, is_api_key, reference
from paddock_operator.core.schema_lists import list_problems
from paddock_operator.core.schema_metadata import metadata_problems
from paddock_operator.core.schema_rules import Rules, compile_rules, rule_problems
from paddock_operator.core.schema_secret import key_problems, secret_problems
from paddock_operator.core.schema_structure import structural_problems
from paddock_operator.core.schema_values import Schema, canonical, unknown_fields
from paddock_operator.core.shown import shown, type_name

TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
MAX_PROBLEMS = 20

__all__ = ["Problem", "Schemas", "duplicates", "load_crds", "problems", "status_problems"]


@dataclass(frozen=True, slots=True)
class Part:
    """The schema of `spec` or `status` of one kind with its compiled rules."""

    schema: Schema
    rules: Rules

    def structure(self, value: Any, root: str) -> list[Problem]:
        """Types, bounds, patterns and repeated entries."""
        return [*structural_problems(self.schema, value, (root,)), *list_problems(self.schema, value, (root,))]


@dataclass(frozen=True, slots=True)
class Schemas:
    """Compiled CRDs by kind; make it once with `load_crds`."""

    specs: Mapping[str, Part]
    statuses: Mapping[str, Part]


def load_crds(crds: Iterable[Mapping[str, Any]]) -> Schemas:
    """Compile parsed CustomResourceDefinitions. Raises KeyError or ValueError if one is not what it should be."""
    specs, statuses = {}, {}
    for crd in crds:
        kind = crd["spec"]["names"]["kind"]
        properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        specs[kind], statuses[kind] = _part(properties["spec"]), _part(properties["status"])
    return Schemas(specs, statuses)


def _part(schema: Schema) -> Part:
    return Part(schema, compile_rules(schema))


def problems(document: Any, schemas: Schemas) -> tuple[Problem, ...]:
    """Everything that is wrong with one document (at most 20, by path), empty if it is accepted.

    The values in `status` are not looked at, as an API server ignores them in a manifest. Never raises for bad input.
    """
    if not isinstance(document, Mapping):
        message = f"is of type {type_name(document)}, but must be an object with apiVersion and kind"
        return (Problem("the document", message, "correct it"),)
    found = _identity_problems(document, schemas) or _object_problems(document, schemas)
    return tuple(sorted(found, key=lambda problem: problem.path)[:MAX_PROBLEMS])


def _identity_problems(document: Mapping[str, Any], schemas: Schemas) -> list[Problem]:
    kinds = (*sorted(schemas.specs, reverse=True), "Secret")
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        nearest = suggestion(str(kind), kinds)
        fix = f"did you mean {nearest}?" if nearest else "remove the document or correct its kind"
        return [worded(INVALID, "kind", f"{shown(kind)}: must be one of {', '.join(kinds)}", fix)]
    wanted = "v1" if kind == "Secret" else API_VERSION
    if document.get("apiVersion") != wanted:
        detail = f"{shown(document.get('apiVersion'))}: must be {wanted} for a {kind}"
        return [worded(INVALID, "apiVersion", detail, f"write apiVersion: {wanted}")]
    return []


def _object_problems(document: Mapping[str, Any], schemas: Schemas) -> list[Problem]:
    found = metadata_problems(document.get("metadata"))
    if document["kind"] == "Secret":
        return found + (key_problems if is_api_key(document) else secret_problems)(document)
    part = schemas.specs[document["kind"]]
    found.extend(_unknown(document, schemas))
    if document.get("spec") is None:
        return [
            *found,
            Problem("spec", "Required value", f"add it (what is wanted of the {document['kind']})", REQUIRED),
        ]
    spec = canonical(part.schema, document["spec"])
    found.extend(part.structure(spec, "spec"))
    if not any(problem.reason in BLOCKING for problem in found):
        found.extend(rule_problems(part.schema, part.rules, spec, ("spec",)))
    return found


def _unknown(document: Mapping[str, Any], schemas: Schemas) -> Iterator[Problem]:
    kind = document["kind"]
    yield from (unknown_field("", str(name), TOP_FIELDS) for name in document if name not in TOP_FIELDS)
    yield from unknown_fields(schemas.specs[kind].schema, document.get("spec"), ("spec",))
    yield from unknown_fields(schemas.statuses[kind].schema, document.get("status"), ("status",))


def status_problems(kind: str, status: Mapping[str, Any], schemas: Schemas) -> tuple[Problem, ...]:
    """What is wrong with a status of `kind` by its CRD; empty for every status that a plan may write."""
    part = schemas.statuses[kind]
    return (
        *unknown_fields(part.schema, status, ("status",)),
        *part.structure(canonical(part.schema, status), "status"),
    )


def duplicates(documents: Iterable[Mapping[str, Any]]) -> tuple[Problem, ...]:
    """One problem for each object that occurs more than once in a set of checked documents."""
    counts: Counter[Ref] = Counter(reference(document) for document in documents)
    return tuple(
        Problem("metadata.name", f"{ref} is declared {count} times", "keep one of them or rename", LOCAL)
        for ref, count in sorted(counts.items())
        if count > 1
    )
