"""Ollama's `keep_alive` and Go durations as seconds. Called by the Ollama dialect (`api/ollama.py`). Pure.

A keep-alive is a number of seconds, or a Go duration string (`10m`, `1h30m`, `300ms`); any negative value means
"for ever".
"""

from __future__ import annotations

import math
import re

FOREVER = -1.0
MAX_SECONDS = 10 * 365 * 86400.0

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_BARE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")


def parse_duration(text: str) -> float:
    """Seconds of the Go duration `text`. Raises ValueError with Go's words."""
    if text in ("0", "+0", "-0"):
        return 0.0
    if len(text) <= 64 and _BARE.fullmatch(text):
        raise ValueError(f'time: missing unit in duration "{text}"')
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    parts = _PART.findall(rest) if len(rest) <= 64 else []
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f'time: invalid duration "{text[:64]}"')
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_keep_alive(value: object) -> float | None:
    """Seconds to keep the model after the request: None = not said, 0 = unload now, FOREVER = never.

    Raises ValueError with Ollama's words for anything that is neither a number nor a duration.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _bounded(parse_duration(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _bounded(float(value))
    kinds = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}
    raise ValueError(f"Unsupported type: '{kinds.get(type(value), 'unknown')}'")


def _bounded(seconds: float) -> float:
    if seconds < 0 or math.isnan(seconds):
        return FOREVER
    return min(seconds, MAX_SECONDS)


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds of `seconds`, never negative: what Ollama's replies hold."""
    return max(0, round(seconds * 1e9))
