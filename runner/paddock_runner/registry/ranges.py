"""What a request for bytes asks for: one range, and the conditions on it (RFC 9110). Pure; used by `registry.app`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class UnsatisfiableError(ValueError):
    """The range begins behind the end."""


def wanted(headers: Mapping[str, str], size: int, tag: str) -> range | None:
    """The bytes that `Range` asks for, None for all of them; `tag` is the entity tag with its quotes.

    Several ranges, other units and nonsense are ignored, as the standard allows. Raises UnsatisfiableError.
    """
    match = _RANGE.fullmatch(headers.get("range", ""))
    if match is None or not any(match.groups()) or headers.get("if-range", tag) != tag:
        return None
    first, last = match.groups()
    if not first:
        return _suffix(int(last), size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise UnsatisfiableError
    return range(int(first), min(int(last or size), size - 1) + 1)


def _suffix(length: int, size: int) -> range:
    if length == 0 or size == 0:
        raise UnsatisfiableError
    return range(max(size - length, 0), size)


def is_current(headers: Mapping[str, str], tag: str) -> bool:
    """Whether `If-None-Match` names `tag`: the client has it already."""
    given = headers.get("if-none-match", "")
    return given.strip() == "*" or tag in (part.strip().removeprefix("W/") for part in given.split(","))
