"""Words and tables for people: sizes, times ago, aligned columns. Called by the verbs that print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from paddock_operator.executors.local.plain import safe

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_SPANS = ((365 * 86400, "year"), (30 * 86400, "month"), (7 * 86400, "week"), (86400, "day"), (3600, "hour"))
_SHORT = ((86400, "d"), (3600, "h"), (60, "m"))
GAP = "    "


def size(count: int) -> str:
    """Bytes in decimal units: two digits below ten (`4.7 GB`), none above (`98 MB`)."""
    for factor, unit in _UNITS:
        if count >= factor:
            value = count / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count} B"


def moment(text: str) -> datetime | None:
    """An RFC 3339 time, None if it is none. More than six digits of a second are cut."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def ago(text: str, now: datetime) -> str:
    """`3 hours ago`, `4 minutes from now`; the text itself if it is no time."""
    when = moment(text)
    if when is None:
        return text
    seconds = (now - when).total_seconds()
    return f"{span(abs(seconds))} {'ago' if seconds >= 0 else 'from now'}"


def span(seconds: float) -> str:
    """A duration in its largest unit: `2 minutes`, `Less than a second`."""
    for length, unit in (*_SPANS, (60, "minute"), (1, "second")):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "Less than a second"


def age(text: str, now: datetime) -> str:
    """`5d`, `3h`, `12m`, `7s`; empty if `text` is no time."""
    when = moment(text)
    if when is None:
        return ""
    seconds = max(0, int((now - when).total_seconds()))
    return next((f"{seconds // length}{unit}" for length, unit in _SHORT if seconds >= length), f"{seconds}s")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns to stdout."""
    lines = [list(header), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(GAP.join(cells).rstrip() + "\n")
