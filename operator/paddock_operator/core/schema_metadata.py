"""Checks of what every Kubernetes object has: metadata with names and labels.

Called by `schema.py` for each accepted kind, because the CRDs leave metadata to the API server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from paddock_operator.core.problems import Problem, shown, type_word, unknown_field

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
FIELDS = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "generation",
    "creationTimestamp",
    "uid",
    "resourceVersion",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
)


def metadata_problems(metadata: Any) -> list[Problem]:
    """Problems of `metadata`: unknown fields, names (RFC 1123), labels and annotations."""
    if not isinstance(metadata, Mapping):
        return [Problem("metadata", f"metadata must be an object with a name, but is {type_word(metadata)}; add it")]
    found = [unknown_field("metadata", str(name), FIELDS) for name in metadata if name not in FIELDS]
    found.extend(_name("metadata.name", metadata.get("name"), SUBDOMAIN, 253, "dashes and dots"))
    if metadata.get("namespace") is not None:
        found.extend(_name("metadata.namespace", metadata["namespace"], LABEL, 63, "dashes"))
    found.extend(_generation(metadata.get("generation")))
    return [*found, *_strings("labels", metadata), *_strings("annotations", metadata)]


def _name(path: str, value: Any, form: re.Pattern[str], limit: int, also: str) -> Iterator[Problem]:
    if value is None or value == "":
        yield Problem(
            path, f"{path} is required; add it (lower-case letters, digits, {also}, at most {limit} characters)"
        )
    elif not isinstance(value, str):
        yield Problem(path, f"{path} must be a string, but is {type_word(value)} {shown(value)}; put it in quotes")
    elif len(value) > limit:
        yield Problem(path, f"{path} has {len(value)} characters, more than its limit of {limit}; shorten it")
    elif not form.fullmatch(value):
        rule = f"lower-case letters, digits, {also}, beginning and ending with a letter or digit"
        yield Problem(path, f"{path} is {shown(value)}, but must consist of {rule}; rename it")


def _generation(value: Any) -> Iterator[Problem]:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        yield Problem(
            "metadata.generation", f"metadata.generation is {shown(value)}; remove it, it is not yours to set"
        )


def _strings(field: str, metadata: Mapping[Any, Any]) -> Iterator[Problem]:
    values = metadata.get(field)
    if values is None:
        return
    path = f"metadata.{field}"
    if not isinstance(values, Mapping):
        yield Problem(path, f"{path} must be an object of strings, but is {type_word(values)}; write key: value pairs")
        return
    for key, value in values.items():
        yield from _string(f"{path}.{key}", field, value)


def _string(path: str, field: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield Problem(path, f"{path} must be a string, but is {type_word(value)} {shown(value)}; put it in quotes")
    elif field == "labels" and (len(value) > 63 or not LABEL_VALUE.fullmatch(value)):
        rule = "at most 63 letters, digits, dashes, dots and underscores"
        yield Problem(path, f"{path} is {shown(value)}, but a label must have {rule}; change it")
