"""What a puller said last, read from the termination message of its container. Called by `pull_job`.

The puller handles hostile files, so nothing of it is believed beyond its form: a field that the status could not hold
is left out, and a message that is not one of the two events is no verdict at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.memory_parts import checked_facts
from paddock_operator.core.observed import PullResult

MAX_MESSAGE = 4096
MAX_SIZE = 1 << 53
MAX_FILES = 64
MAX_CAPABILITIES = 16
MAX_ERROR = 900
MAX_WORD = 128
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_TEXTS = {"format": 32, "family": 64, "parameterSize": 32, "quantization": 32, "architecture": 64}
_COUNTS = (
    "contextLength",
    "embeddingLength",
    "blockCount",
    "headCount",
    "headCountKV",
    "keyLength",
    "valueLength",
    "vocabSize",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Either `result` or an error with its `reason`, `message` and whether another attempt can help."""

    result: PullResult | None = None
    reason: str = ""
    message: str = ""
    retryable: bool = False


def read_verdict(message: str) -> Verdict | None:
    """The verdict in a termination message, None if there is none (empty, cut off, not of the contract)."""
    if not message or len(message.encode("utf-8", "replace")) > MAX_MESSAGE:
        return None
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    kinds = {"error": _error, "checked": _checked}
    return kinds.get(str(event.get("event")), _success)(event)


def _error(event: Mapping[str, Any]) -> Verdict | None:
    reason, words, retryable = event.get("reason"), event.get("message"), event.get("retryable")
    if not isinstance(reason, str) or not _REASON.fullmatch(reason) or not isinstance(words, str):
        return None
    return Verdict(None, reason, printable(words, MAX_ERROR), retryable is True)


def _checked(event: Mapping[str, Any]) -> Verdict:
    digest, files = event.get("digest"), event.get("files")
    listed = [item for item in files[:MAX_FILES] if _is_digest(item)] if isinstance(files, list) else []
    sound = {"digest": digest if _is_digest(digest) else "", "files": listed, "revision": _word(event.get("revision"))}
    return Verdict(PullResult.from_check(sound))


def _success(event: Mapping[str, Any]) -> Verdict | None:
    found = event.get("result")
    if event.get("event") != "result" or not isinstance(found, dict):
        return None
    digest, called, size = found.get("digest"), found.get("name"), found.get("size")
    if not _is_digest(digest) or not isinstance(called, str) or not called or not _is_count(size):
        return None
    files, details = _files(found.get("files")), _details(found.get("details"))
    revision, validator = _word(found.get("revision")), _word(found.get("validator"))
    return Verdict(
        PullResult(str(digest), printable(called, 2048), int(size or 0), files, details, revision, validator)
    )


def _word(value: Any) -> str:
    """A text that is whole or not there: half of one would say something else."""
    return value if isinstance(value, str) and len(value) <= MAX_WORD and value.isprintable() else ""


def _files(found: Any) -> tuple[Mapping[str, Any], ...]:
    entries = found[:MAX_FILES] if isinstance(found, list) else ()
    return tuple(
        {"role": printable(str(entry.get("role")), 32), "digest": entry["digest"], "size": entry["size"]}
        for entry in entries
        if isinstance(entry, dict) and _is_digest(entry.get("digest")) and _is_count(entry.get("size"))
    )


def _details(found: Any) -> dict[str, Any]:
    given = found if isinstance(found, dict) else {}
    texts = {key: printable(given[key], limit) for key, limit in _TEXTS.items() if isinstance(given.get(key), str)}
    numbers = {key: given[key] for key in _COUNTS if _is_count(given.get(key))}
    abilities = given.get("capabilities")
    words = [printable(word, 32) for word in abilities if isinstance(word, str)] if isinstance(abilities, list) else []
    unique = list(dict.fromkeys(words))[:MAX_CAPABILITIES]
    memory = checked_facts(given.get("memory"))
    return {
        **texts,
        **numbers,
        **({"capabilities": unique} if unique else {}),
        **({"memory": memory} if memory else {}),
    }


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE


def printable(text: str, limit: int) -> str:
    """One line of at most `limit` characters without control characters or lone surrogates."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
