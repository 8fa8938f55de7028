"""A problem of a manifest, in the API server's words with a fix behind them.

Called by every check of `schema.py`; the command line prints `str(problem)`. `path` and `message` equal the field and
message of the API server's answer (tests/crds compares the two), `fix` is ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN_CHOICES = 24
MAX_TEXT = 4096

INVALID = "FieldValueInvalid"
REQUIRED = "FieldValueRequired"
FORBIDDEN = "FieldValueForbidden"
DUPLICATE = "FieldValueDuplicate"
NOT_SUPPORTED = "FieldValueNotSupported"
TOO_LONG = "FieldValueTooLong"
TOO_MANY = "FieldValueTooMany"
WRONG_TYPE = "FieldValueTypeInvalid"
UNKNOWN_FIELD = "UnknownField"
UNREADABLE = "Unreadable"
LOCAL = "Local"

# after one of these an API server does not look at the CEL rules
BLOCKING = frozenset({REQUIRED, NOT_SUPPORTED, TOO_LONG, TOO_MANY, WRONG_TYPE, UNKNOWN_FIELD, UNREADABLE})

PREFIXES = {
    INVALID: "Invalid value: ",
    REQUIRED: "Required value",
    FORBIDDEN: "Forbidden: ",
    DUPLICATE: "Duplicate value: ",
    NOT_SUPPORTED: "Unsupported value: ",
    TOO_LONG: "Too long: ",
    TOO_MANY: "Too many: ",
    WRONG_TYPE: "Invalid value: ",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """`path` is like `spec.models[0].name`; `reason` is the API server's, or one of the last three above."""

    path: str
    message: str
    fix: str = ""
    reason: str = LOCAL

    def __str__(self) -> str:
        message = self.message if len(self.message) <= MAX_TEXT else self.message[: MAX_TEXT - 1] + "…"
        return f"{self.path}: {message}; {self.fix}" if self.fix else f"{self.path}: {message}"


def worded(reason: str, path: str, detail: str, fix: str) -> Problem:
    """A problem whose message begins as the API server's messages of this reason do."""
    return Problem(path, PREFIXES[reason] + detail, fix, reason)


def path_text(parts: Iterable[Any]) -> str:
    """`["spec", "models", 0, "name"]` as `spec.models[0].name`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "the document"


def suggestion(wrong: str, known: Sequence[str]) -> str | None:
    """The known name nearest to a wrong one, spelling and case aside, or None."""
    folded = {name.lower(): name for name in known}
    found = difflib.get_close_matches(wrong[:256].lower(), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def unknown_field(parent: str, name: str, known: Sequence[str]) -> Problem:
    """A field that the schema does not have; names the nearest one or lists what there is."""
    prefix = f"{parent}." if parent else ""
    nearest = suggestion(name, known)
    if nearest:
        fix = f"did you mean {prefix}{nearest}?"
    elif known:
        fix = f"known here are {', '.join(list(known)[:SHOWN_CHOICES])}"
    else:
        fix = "no field may stand here; remove it"
    return Problem(f"{prefix}{name}", f'unknown field "{prefix}{name}"', fix, UNKNOWN_FIELD)
