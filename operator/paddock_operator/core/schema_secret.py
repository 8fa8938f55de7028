"""Checks of Secrets: one that holds an API key record, and any other, which may hold the credentials of a source.

Called by `schema.py`. Messages never show a value of the Secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from paddock_operator.core.clock import parse_time
from paddock_operator.core.problems import Problem, suggestion, unknown_field
from paddock_operator.core.resources import API_KEY_TYPE, secret_text, secret_values
from paddock_operator.core.shown import type_name

SHA256 = re.compile(r"[0-9a-f]{64}")
MODEL_NAME = re.compile(r"\*|[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,254}")
VERBS = ("infer", "manage")
POLICY_FIELDS = ("models", "verbs", "expires", "previous")
MAX_POLICY = 16384
MAX_SECRET = 1024 * 1024
"""Bytes of all values, as an API server allows."""
SECRET_KEY = re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]+")
MAX_SECRET_KEY = 253
MAX_SECRET_KEYS = 256
MAX_MODELS = 256
TOP_FIELDS = ("apiVersion", "kind", "metadata", "type", "stringData", "data", "immutable")


def key_problems(document: Mapping[str, Any]) -> list[Problem]:
    """Problems of a Secret of type paddock.dev/api-key."""
    found = [unknown_field("", str(name), TOP_FIELDS) for name in document if name not in TOP_FIELDS]
    for part in ("stringData", "data"):
        found.extend(_container(part, document.get(part)))
    if found:
        return found
    try:
        digest, policy = secret_text(document, "sha256"), secret_text(document, "policy")
    except ValueError:
        return [Problem("data", "must hold base64 of UTF-8 text", "encode it again or use stringData")]
    return [*_digest("sha256", digest), *_policy(policy)]


def secret_problems(document: Mapping[str, Any]) -> list[Problem]:
    """Problems of any other Secret: what an API server refuses in it, and what would be no file of a mount."""
    found = [unknown_field("", str(name), TOP_FIELDS) for name in document if name not in TOP_FIELDS]
    for part in ("data", "stringData"):
        found.extend(_entries(part, document.get(part)))
    if not isinstance(document.get("type"), str | None):
        found.append(Problem("type", "must be a string", "write Opaque, or leave it out"))
    if found:
        return found
    return _sizes(document)


def _sizes(document: Mapping[str, Any]) -> list[Problem]:
    try:
        values = secret_values(document)
    except ValueError:
        return [Problem("data", "must hold base64", "encode it again or use stringData")]
    if len(values) > MAX_SECRET_KEYS:
        return [Problem("data", f"has {len(values)} keys, more than the limit of {MAX_SECRET_KEYS}", "split it")]
    size = sum(map(len, values.values()))
    too_large = f"has {size} bytes, more than the limit of {MAX_SECRET}"
    return [Problem("data", too_large, "shorten it")] if size > MAX_SECRET else []


def _entries(part: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, Mapping | None):
        yield Problem(part, f"must be an object, but is of type {type_name(value)}", "write key: value pairs below it")
        return
    for number, (key, text) in enumerate((value or {}).items()):
        # a value may have been written in the place of a key, so neither is shown
        if not isinstance(key, str) or not SECRET_KEY.fullmatch(key) or len(key) > MAX_SECRET_KEY:
            words = f"must have at most {MAX_SECRET_KEY} letters, digits, '-', '_' and '.', and not begin with two dots"
            yield Problem(part, f"key number {number + 1} {words}", "rename it")
        elif not isinstance(text, str | None):
            yield Problem(f"{part}.{key}", f"must be a string, but is of type {type_name(text)}", "put it in quotes")


def _container(part: str, value: Any) -> Iterator[Problem]:
    if value is None:
        return
    if not isinstance(value, Mapping):
        yield Problem(part, f"must be an object, but is of type {type_name(value)}", "write sha256 and policy below it")
        return
    for name, text in value.items():
        if name not in ("sha256", "policy"):
            yield unknown_field(part, str(name), ("sha256", "policy"))
        elif not isinstance(text, str):
            yield Problem(f"{part}.{name}", f"must be a string, but is of type {type_name(text)}", "put it in quotes")


def _digest(path: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, str) or not SHA256.fullmatch(value.strip()):
        fix = "write the SHA-256 of the key as 64 lower-case hex digits, never the key itself"
        yield Problem(path, f"is missing or malformed in a Secret of type {API_KEY_TYPE}", fix)


def _policy(text: str | None) -> list[Problem]:
    if text is None:
        return []
    if len(text) > MAX_POLICY:
        return [Problem("policy", f"has {len(text)} characters, more than its limit of {MAX_POLICY}", "shorten it")]
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        policy = None
    if not isinstance(policy, Mapping):
        return [Problem("policy", 'must be a JSON object such as {"models":["*"],"verbs":["infer"]}', "correct it")]
    found = [unknown_field("policy", str(name), POLICY_FIELDS) for name in policy if name not in POLICY_FIELDS]
    times = _time("policy.expires", policy.get("expires"))
    return [*found, *_models(policy), *_verbs(policy), *times, *_previous(policy)]


def _models(policy: Mapping[str, Any]) -> Iterator[Problem]:
    models = policy.get("models", ["*"])
    if not isinstance(models, list) or not 1 <= len(models) <= MAX_MODELS:
        message = f'must be a list of 1 to {MAX_MODELS} public names, or ["*"]'
        yield Problem("policy.models", message, "correct it")
        return
    for index, name in enumerate(models):
        if not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
            message = "must be * or a public model name of at most 255 characters"
            yield Problem(f"policy.models[{index}]", message, "correct it")


def _verbs(policy: Mapping[str, Any]) -> Iterator[Problem]:
    verbs = policy.get("verbs", ["infer"])
    if not isinstance(verbs, list) or not verbs:
        yield Problem("policy.verbs", f"must be a list of {', '.join(VERBS)}", "name at least one")
        return
    for index, verb in enumerate(verbs):
        if verb not in VERBS:
            nearest = suggestion(str(verb), VERBS)
            fix = f"did you mean {nearest}?" if nearest else "use one of them"
            yield Problem(f"policy.verbs[{index}]", f"must be one of {', '.join(VERBS)}", fix)


def _time(path: str, value: Any) -> Iterator[Problem]:
    if value is None:
        return
    try:
        parse_time(value if isinstance(value, str) else "")
    except ValueError:
        yield Problem(path, "must be null or a time such as 2026-12-31T00:00:00Z (RFC 3339)", "correct it")


def _previous(policy: Mapping[str, Any]) -> list[Problem]:
    previous = policy.get("previous")
    if previous is None:
        return []
    if not isinstance(previous, Mapping) or set(previous) != {"sha256", "until"}:
        return [Problem("policy.previous", "must have exactly sha256 and until", "correct it")]
    until = previous["until"] if previous["until"] is not None else ""
    return [*_digest("policy.previous.sha256", previous["sha256"]), *_time("policy.previous.until", until)]
