"""Strict JSON for bodies that strangers send: one reading, the same for every parser behind us.

Called by the gateway and the runner's front for request bodies and by both for their configuration files. Stricter
than the standard library on purpose: UTF-8 only, no NaN or infinity, no duplicate keys, no lone surrogates, bounded
depth and bounded integers, so that nothing that passes here can mean, or break, something else further down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_DIGITS = 20  # every 64-bit integer, signed or not, fits

_SHOWN = 64
_BOM = b"\xef\xbb\xbf"
# Possessive quantifiers: a hostile body cannot make the matcher remember positions to return to.
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|([\[{])|([\]}])', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class JSONProblem(ValueError):  # noqa: N818
    """The body is not acceptable JSON; the message is fit for a client (it never quotes more than a key)."""


def loads(body: bytes, *, max_depth: int = MAX_DEPTH, max_digits: int = MAX_DIGITS) -> object:
    """The value of a JSON document.

    `max_depth` bounds nested arrays and objects, `max_digits` the digits of an integer.
    Raises `JSONProblem` for everything else than one well-formed UTF-8 document within these bounds.
    """
    text = _text(body)
    _check_depth(body, max_depth)
    _check_surrogates(body)
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer(max_digits),
            parse_float=_float,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise JSONProblem(f"invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None


def _text(body: bytes) -> str:
    if not body.strip(b" \t\r\n"):
        raise JSONProblem("missing request body")
    if body.startswith(_BOM):
        raise JSONProblem("the body starts with a byte order mark; send UTF-8 without one")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONProblem(f"the body is not UTF-8 (byte {error.start})") from None


def _check_depth(body: bytes, limit: int) -> None:
    """A linear scan over brackets outside strings, before the recursive parser sees the body."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    depth = 0
    for match in _STRUCTURE.finditer(body):
        if match.group(1):
            depth += 1
            if depth > limit:
                raise JSONProblem(f"the JSON is nested deeper than {limit} levels")
        elif match.group(2):
            depth -= 1


def _check_surrogates(body: bytes) -> None:
    """Escaped surrogates must come in pairs, high then low: a lone one cannot be encoded again."""
    if not _SURROGATE_ESCAPE.search(body):
        return
    high_ends_at = -1
    for match in _ESCAPE.finditer(body):
        code = int(match.group(1) or b"0", 16)
        is_low = 0xDC00 <= code <= 0xDFFF
        if is_low != (high_ends_at == match.start()):
            _lone_surrogate()
        if high_ends_at not in (-1, match.start()):
            _lone_surrogate()
        high_ends_at = match.end() if 0xD800 <= code <= 0xDBFF else -1
    if high_ends_at != -1:
        _lone_surrogate()


def _lone_surrogate() -> NoReturn:
    raise JSONProblem("the JSON holds a lone surrogate (\\ud800 to \\udfff); send whole characters")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JSONProblem(f"duplicate key {json.dumps(key[:_SHOWN])}")
            seen.add(key)
    return result


def _integer(max_digits: int) -> Callable[[str], int]:
    def parse(literal: str) -> int:
        if len(literal.lstrip("-")) > max_digits:
            raise JSONProblem(f"an integer has more than {max_digits} digits")
        return int(literal)

    return parse


def _float(literal: str) -> float:
    value = float(literal)
    if value in (float("inf"), float("-inf")):
        raise JSONProblem("a number is too large for a double")
    return value


def _constant(name: str) -> NoReturn:
    raise JSONProblem(f"{name} is not JSON")
