"""The header WWW-Authenticate as values: which schemes a server takes and with which parameters. Pure.

Called by `sources.transport`; answered by `sources.auth`. What is not understood ends the reading, what is too large is
ignored: a hostile header yields fewer challenges, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MAX_HEADER_CHARACTERS = 8192
MAX_CHALLENGES = 8
MAX_PARAMETERS = 16

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_SEPARATORS = re.compile(r"[ \t,]*")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))(?=[ \t]*(?:,|$))')
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|$)")
_TOKEN68 = re.compile(r"[ \t]+[0-9A-Za-z._~+/-]+=*(?=[ \t]*(?:,|$))")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` and the parameters' names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all WWW-Authenticate headers of one answer, in order."""
    text = ", ".join(values)
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while len(text) <= MAX_HEADER_CHARACTERS and (at := _skip(text, at)) < len(text):
        if (match := _PARAMETER.match(text, at)) is not None and found:
            _add(found[-1][1], match)
        elif (match := _SCHEME.match(text, at)) is not None and len(found) < MAX_CHALLENGES:
            found.append((match[1].lower(), {}))
            match = _TOKEN68.match(text, match.end()) or match
        else:
            break
        at = match.end()
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def _skip(text: str, at: int) -> int:
    match = _SEPARATORS.match(text, at)
    return match.end() if match else at


def _add(parameters: dict[str, str], match: re.Match[str]) -> None:
    value = _ESCAPED.sub(r"\1", match[2]) if match[2] is not None else match[3]
    # The first of two counts, and one too many is left out.
    if len(parameters) < MAX_PARAMETERS:
        parameters.setdefault(match[1].lower(), value)
