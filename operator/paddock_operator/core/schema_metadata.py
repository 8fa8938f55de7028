"""Checks of what every Kubernetes object has: metadata with names, labels and annotations.

Called by `schema.py` for each accepted kind, because the CRDs leave metadata to the API server; the messages are its.
Fields that only an API server fills in (ownerReferences, managedFields and the like) are not looked into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from paddock_operator.core.problems import (
    INVALID,
    REQUIRED,
    TOO_LONG,
    UNREADABLE,
    Problem,
    unknown_field,
    worded,
)
from paddock_operator.core.shown import float_text, quoted

STRINGS = ("name", "namespace", "generateName", "uid", "resourceVersion", "selfLink")
INTEGERS = ("generation", "deletionGracePeriodSeconds")
MAPS = ("labels", "annotations")
OTHERS = ("creationTimestamp", "ownerReferences", "finalizers", "managedFields", "deletionTimestamp")
FIELDS = (*STRINGS, *MAPS, *INTEGERS, *OTHERS)
MAX_ANNOTATIONS = 262144

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_KEY = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = f"({_KEY})?"
_ENDS = "and must start and end with an alphanumeric character"
_REGEX = "regex used for validation is"
_SUBDOMAIN_WORDS = (
    f"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', {_ENDS} "
    f"(e.g. 'example.com', {_REGEX} '{_SUBDOMAIN}')"
)
_LABEL_WORDS = (
    f"a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', {_ENDS} "
    f"(e.g. 'my-name',  or '123-abc', {_REGEX} '{_LABEL}')"
)
_KEY_WORDS = (
    f"must consist of alphanumeric characters, '-', '_' or '.', {_ENDS} "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', {_REGEX} '{_KEY}')"
)
_VALUE_WORDS = (
    f"a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', {_ENDS} "
    f"(e.g. 'MyValue',  or 'my_value',  or '12345', {_REGEX} '{_VALUE}')"
)
_GO_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (int, "number"),
    (float, "number"),
    (str, "string"),
    (dict, "object"),
    (list, "array"),
)


def metadata_problems(metadata: Any) -> list[Problem]:
    """Problems of `metadata`: unknown fields, types, names (RFC 1123), labels and annotations."""
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, Mapping):
        return [_unreadable("metadata", metadata, "value of type v1.ObjectMeta", "write name: … below it")]
    found = [unknown_field("metadata", str(name), FIELDS) for name in metadata if name not in FIELDS]
    wrong = list(_types(metadata))
    return [*found, *wrong] if wrong else [*found, *_names(metadata), *_labels(metadata), *_annotations(metadata)]


def _types(metadata: Mapping[Any, Any]) -> Iterator[Problem]:
    for name in STRINGS:
        if not isinstance(metadata.get(name), str | None):
            yield _wrong_type(name, metadata[name], "string", "put it in quotes")
    for name in INTEGERS:
        value = metadata.get(name)
        if not isinstance(value, int | None) or isinstance(value, bool):
            yield _wrong_type(name, value, "int64", "remove it, it is not yours to set")
    for name in MAPS:
        yield from _map_types(name, metadata.get(name))


def _map_types(name: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, Mapping | None):
        yield _wrong_type(name, value, "map[string]string", "write key: value pairs below it")
        return
    for key, text in (value or {}).items():
        if not isinstance(text, str | None):
            yield _wrong_type(name, text, "string", f"put the value of {key} in quotes")


def _wrong_type(name: str, value: Any, wanted: str, fix: str) -> Problem:
    return _unreadable(f"metadata.{name}", value, f"struct field ObjectMeta.{name} of type {wanted}", fix)


def _unreadable(path: str, value: Any, into: str, fix: str) -> Problem:
    found = next((name for kind, name in _GO_KINDS if isinstance(value, kind)), type(value).__name__)
    if isinstance(value, float) and into.endswith("int64"):
        found = f"number {float_text(value)}"
    return Problem(path, f"json: cannot unmarshal {found} into Go {into}", fix, UNREADABLE)


def _names(metadata: Mapping[Any, Any]) -> Iterator[Problem]:
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not name:
        fix = "add it (lower-case letters, digits, dashes and dots, at most 253 characters)"
        yield worded(REQUIRED, "metadata.name", ": name or generateName is required", fix)
    else:
        yield from _formed("metadata.name", name, 253, _SUBDOMAIN, _SUBDOMAIN_WORDS)
    if namespace:
        yield from _formed("metadata.namespace", namespace, 63, _LABEL, _LABEL_WORDS)


def _formed(path: str, value: str, limit: int, form: str, words: str) -> Iterator[Problem]:
    if len(value) > limit:
        detail = f"{quoted(value)}: must be no more than {limit} characters"
        yield worded(INVALID, path, detail, f"it has {len(value)}, shorten it")
    if not re.fullmatch(form, value):
        yield worded(INVALID, path, f"{quoted(value)}: {words}", "rename it")


def _labels(metadata: Mapping[Any, Any]) -> Iterator[Problem]:
    path = "metadata.labels"
    for key, value in (metadata.get("labels") or {}).items():
        yield from _key(path, str(key), str(key))
        if value is not None and len(value) > 63:
            yield worded(
                INVALID, path, f"{quoted(value)}: must be no more than 63 bytes", f"shorten the value of {key}"
            )
        if value is not None and not re.fullmatch(_VALUE, value):
            yield worded(INVALID, path, f"{quoted(value)}: {_VALUE_WORDS}", f"change the value of {key}")


def _annotations(metadata: Mapping[Any, Any]) -> Iterator[Problem]:
    path, annotations = "metadata.annotations", metadata.get("annotations") or {}
    for key in annotations:
        yield from _key(path, str(key), str(key).lower())
    size = sum(len(str(key).encode()) + len((value or "").encode()) for key, value in annotations.items())
    if size > MAX_ANNOTATIONS:
        fix = f"they have {size}, shorten them"
        yield worded(TOO_LONG, path, f"may not be more than {MAX_ANNOTATIONS} bytes", fix)


def _key(path: str, key: str, checked: str) -> Iterator[Problem]:
    """`checked` is the key as it is looked at: annotations in lower case."""
    for words in _key_complaints(checked):
        yield worded(INVALID, path, f"{quoted(key)}: {words}", "rename the key")


def _key_complaints(key: str) -> Iterator[str]:
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        optional = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        yield f"a valid label key {_KEY_WORDS} {optional}"
        return
    if slash and not prefix:
        yield "prefix part must be non-empty"
    elif slash:
        yield from (f"prefix part {words}" for words in _subdomain_complaints(prefix))
    if not name:
        yield "name part must be non-empty"
    elif len(name) > 63:
        yield "name part must be no more than 63 bytes"
    if not re.fullmatch(_KEY, name):
        yield f"name part {_KEY_WORDS}"


def _subdomain_complaints(text: str) -> Iterator[str]:
    if len(text) > 253:
        yield "must be no more than 253 bytes"
    if not re.fullmatch(_SUBDOMAIN, text):
        yield _SUBDOMAIN_WORDS
