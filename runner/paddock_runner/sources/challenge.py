"""The header WWW-Authenticate as values (RFC 9110, section 11). Pure; used by `transport` and `auth`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_HEADER_CHARACTERS = 8192
MAX_CHALLENGES = 8

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_PIECE = re.compile(
    rf'\s*(?:(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>{_TOKEN}))|(?P<scheme>{_TOKEN}))\s*,?'
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate; `scheme` and the names of `parameters` are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all header lines, in order; what is malformed ends the reading and is left out."""
    return tuple(challenge for value in values for challenge in _parse(value))[:MAX_CHALLENGES]


def _parse(text: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    text = text[:MAX_HEADER_CHARACTERS]
    while position < len(text) and (match := _PIECE.match(text, position)) is not None and match.end() > position:
        position = match.end()
        if match["scheme"]:
            found.append((match["scheme"].lower(), {}))
        elif found:
            found[-1][1].setdefault(match["name"].lower(), _value(match))
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def _value(match: re.Match[str]) -> str:
    return re.sub(r"\\(.)", r"\1", match["quoted"]) if match["quoted"] is not None else match["plain"]
