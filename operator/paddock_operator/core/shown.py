"""Values as the API server prints them in messages, and the names of their types.

Called by the checks of `schema.py`.
"""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

PLAIN_BELOW = 6
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPES |= {"\v": "\\v"}
_HTML = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&"})
_FIXES = {
    "object": "write fields below it",
    "array": "write a list",
    "string": "write a string (quotes help)",
    "integer": "write an integer",
    "number": "write a number",
    "boolean": "write true or false",
    "integer,string": "write an integer or a string",
}


def type_name(value: Any) -> str:
    """The JSON type of a value; whole numbers are integers."""
    if value is None:
        return "null"
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (dict, "object"),
        (list, "array"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def type_fix(wanted: str, value: Any) -> str:
    """What to do about a value of another type than `wanted`."""
    return "give it a value or remove it" if value is None else _FIXES[wanted]


def shown(value: Any) -> str:
    """A value in a message: strings in quotes, numbers plain, the rest as JSON."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        return float_text(value)
    text = json.dumps(value, default=str, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    return text.translate(_HTML)


def quoted(text: str) -> str:
    """A string in double quotes; what cannot be printed is escaped."""
    return '"' + "".join(_character(character) for character in text) + '"'


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character == " " or unicodedata.category(character)[0] in "LMNPS":
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def float_text(value: float) -> str:
    """The shortest text of a float, with an exponent below 1e-4 and from 1e6 on."""
    if not math.isfinite(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    digits, exponent = _decimal(value)
    if value != 0 and not -4 <= exponent < PLAIN_BELOW:
        return _scientific(value, digits, exponent)
    return f"{value:.{max(len(digits) - 1 - exponent, 0)}f}"


def _decimal(value: float) -> tuple[str, int]:
    texts = (f"{value:.{precision}e}" for precision in range(17))
    mantissa, _, exponent = next(text for text in texts if float(text) == value).partition("e")
    return mantissa.replace(".", "").lstrip("-"), int(exponent)


def _scientific(value: float, digits: str, exponent: int) -> str:
    sign = "-" if value < 0 else ""
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
