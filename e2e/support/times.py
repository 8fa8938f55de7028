"""How long recoveries took: scenarios record, the summary of the run shows.

Nothing is asserted here: these are figures for people, on whatever machine the scenarios ran.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

RECORDED: list[tuple[str, float]] = []


def record(what: str, seconds: float) -> None:
    """Remember a measured time."""
    RECORDED.append((what, seconds))


@contextmanager
def recorded(what: str) -> Iterator[None]:
    """Remember how long the block took."""
    started = time.monotonic()
    yield
    record(what, time.monotonic() - started)
