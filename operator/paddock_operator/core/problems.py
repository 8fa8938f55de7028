"""A problem of a manifest and the words for it: one sentence that names the field, the limit and the fix.

Called by every check of `schema.py`; the command line prints `str(problem)`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN_VALUE = 60
SHOWN_CHOICES = 24
TYPE_WORDS = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """`path` is like `spec.source.ollama.name`; `message` is a whole sentence that names it."""

    path: str
    message: str

    def __str__(self) -> str:
        return self.message


def path_text(parts: Iterable[Any]) -> str:
    """`["spec", "models", 0, "name"]` as `spec.models[0].name`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "the document"


def shown(value: Any) -> str:
    """A value as JSON, cut to 60 characters, safe to print."""
    text = json.dumps(value, default=str, ensure_ascii=True)
    return text if len(text) <= SHOWN_VALUE else text[: SHOWN_VALUE - 1] + "…"


def type_word(value: Any) -> str:
    """What a value is, in the words of a manifest."""
    if value is None:
        return "null"
    names: tuple[tuple[type, str], ...] = (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (dict, "object"),
        (list, "array"),
    )
    found = next((name for kind, name in names if isinstance(value, kind)), "")
    return TYPE_WORDS.get(found, f"a {type(value).__name__}") if found != "boolean" else f"the boolean {shown(value)}"


def suggestion(wrong: str, known: Sequence[str]) -> str | None:
    """The known name nearest to a wrong one, spelling and case aside, or None."""
    folded = {name.lower(): name for name in known}
    found = difflib.get_close_matches(wrong.lower(), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def unknown_field(parent: str, name: str, known: Sequence[str]) -> Problem:
    """A field that the schema does not have; names the nearest one or lists what there is."""
    prefix = f"{parent}." if parent else ""
    nearest = suggestion(str(name), known)
    if nearest:
        fix = f"did you mean {prefix}{nearest}?"
    elif known:
        fix = f"known here are {', '.join(list(known)[:SHOWN_CHOICES])}"
    else:
        fix = "no field may stand here; remove it"
    return Problem(f"{prefix}{name}", f"{prefix}{name} is not a known field; {fix}")
