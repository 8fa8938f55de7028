"""Arithmetic on times and durations as manifests write them. Pure: nobody here asks what time it is.

Called by the plans and by the checks of manifests.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DURATION = re.compile(r"([0-9]+)(h|ms|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def duration_seconds(text: str) -> float:
    """Seconds of a duration such as `1h30m`. Raises ValueError if it is none."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 1h30m, 30s or 500ms")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def parse_time(text: str) -> datetime:
    """An RFC 3339 time with its offset. Raises ValueError if it is none or has no offset."""
    if "T" not in text.upper():
        raise ValueError(f"{text!r} is not an RFC 3339 time")
    moment = datetime.fromisoformat(text.upper())
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return moment.astimezone(UTC)


def unix_seconds(text: str) -> int:
    """Whole Unix seconds of an RFC 3339 time. Raises ValueError."""
    return int(parse_time(text).timestamp())


def seconds_between(earlier: str, later: str) -> float:
    """`later - earlier` in seconds, both RFC 3339. Raises ValueError."""
    return (parse_time(later) - parse_time(earlier)).total_seconds()
