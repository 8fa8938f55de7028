"""Check manifests against the CRDs, on a machine without an API server, with messages for people.

Called by `paddock up` for every document it reads (`problems`, `duplicates`), and by tests for every status that is
planned (`status_problems`). The CRDs are given as parsed documents: nothing here reads files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.problems import Problem, shown, suggestion, type_word, unknown_field
from paddock_operator.core.resources import API_VERSION, Ref, is_api_key, reference
from paddock_operator.core.schema_metadata import metadata_problems
from paddock_operator.core.schema_rules import Rules, compile_rules, rule_problems
from paddock_operator.core.schema_secret import key_problems
from paddock_operator.core.schema_structure import Schema, structural_problems, validator

TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
MAX_PROBLEMS = 20

__all__ = ["Problem", "Schemas", "duplicates", "load_crds", "problems", "status_problems"]


@dataclass(frozen=True, slots=True)
class Part:
    """The compiled schema of `spec` or `status` of one kind."""

    schema: Schema
    structure: Any
    rules: Rules

    def problems(self, value: Any, root: str) -> list[Problem]:
        """Structure first; rules only where the structure is sound, as on an API server."""
        found = structural_problems(self.structure, value, (root,))
        return found or rule_problems(self.schema, self.rules, value, (root,))


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
    return Part(schema, validator(schema), compile_rules(schema))


def problems(document: Any, schemas: Schemas) -> tuple[Problem, ...]:
    """Everything that is wrong with one document (at most 20), empty if it is accepted.

    `status` is not looked at, as an API server ignores it in a manifest. Never raises for bad input.
    """
    if not isinstance(document, Mapping):
        kind = type_word(document)
        return (
            Problem(
                "the document", f"the document must be an object with apiVersion and kind, but is {kind}; correct it"
            ),
        )
    found = _identity_problems(document, schemas)
    if not found:
        found = [*metadata_problems(document.get("metadata")), *_body_problems(document, schemas)]
    return tuple(found[:MAX_PROBLEMS])


def _identity_problems(document: Mapping[str, Any], schemas: Schemas) -> list[Problem]:
    kinds = (*sorted(schemas.specs, reverse=True), "Secret")
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        nearest = suggestion(str(kind), kinds)
        fix = f"did you mean {nearest}?" if nearest else "remove the document or correct its kind"
        return [Problem("kind", f"kind is {shown(kind)}, but must be one of {', '.join(kinds)}; {fix}")]
    wanted = "v1" if kind == "Secret" else API_VERSION
    if document.get("apiVersion") != wanted:
        is_now = shown(document.get("apiVersion"))
        return [
            Problem(
                "apiVersion", f"apiVersion of a {kind} is {is_now}, but must be {wanted}; write apiVersion: {wanted}"
            )
        ]
    return []


def _body_problems(document: Mapping[str, Any], schemas: Schemas) -> list[Problem]:
    kind = document["kind"]
    if kind == "Secret":
        return key_problems(document) if is_api_key(document) else []
    found = [unknown_field("", str(name), TOP_FIELDS) for name in document if name not in TOP_FIELDS]
    if "spec" not in document:
        return [*found, Problem("spec", f"spec is required; add it (what is wanted of the {kind})")]
    return [*found, *schemas.specs[kind].problems(document["spec"], "spec")]


def status_problems(kind: str, status: Mapping[str, Any], schemas: Schemas) -> tuple[Problem, ...]:
    """What is wrong with a status of `kind` by its CRD; empty for every status that a plan may write."""
    return tuple(schemas.statuses[kind].problems(status, "status"))


def duplicates(documents: Iterable[Mapping[str, Any]]) -> tuple[Problem, ...]:
    """One problem for each object that occurs more than once in a set of checked documents."""
    counts: Counter[Ref] = Counter(reference(document) for document in documents)
    return tuple(
        Problem("metadata.name", f"{ref} is declared {count} times; keep one of them or rename (metadata.name)")
        for ref, count in sorted(counts.items())
        if count > 1
    )
