"""What every part of one `paddock up` shares. Made by `up`, or by a test with its own parts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from paddock_operator.core.resources import Ref
from paddock_operator.executors.local.home import Home
from paddock_operator.executors.local.report import Reporter


def utc_now() -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _deaf(_: Ref) -> None:
    """Before the controller has its queue nobody rings."""


@dataclass(slots=True)
class Context:
    """`ring` asks for a key to be reconciled; `runner` is the command line of paddock-runner; `memory` in bytes.

    `check_seconds`: how often the source of a pinned Model is asked whether it moved, 0: never.
    """

    home: Home
    reporter: Reporter
    memory: int = 0
    runner: tuple[str, ...] = (sys.executable, "-m", "paddock_runner")
    ring: Callable[[Ref], None] = _deaf
    now: Callable[[], str] = utc_now
    check_seconds: float = 0.0
