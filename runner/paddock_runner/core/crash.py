"""What is known of an engine that died: why, and what it was computing. Used by `engine` on both sides. Pure.

A request is a number here (the front's handle), never its text.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Cause = Literal["abort", "segfault", "stall", "error", "memory", "signal"]
CAUSES: tuple[Cause, ...] = get_args(Cause)

_FAULTS = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}
_SHOWN_ROWS = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One request's part of a step: `tokens` from position `start`; `reading` its prompt, or writing."""

    handle: int
    start: int
    tokens: int
    reading: bool


@dataclass(frozen=True, slots=True)
class LastStep:
    """The step in progress at the death, no `rows` if there was none; `preparing` is the prompt that was tokenised.

    `number` counts the steps of this process. Handles are 0 for "none".
    """

    number: int = 0
    rows: tuple[Row, ...] = ()
    preparing: int = 0


@dataclass(frozen=True, slots=True)
class Crash:
    """`words` are fit for a status field. `serving` is false for a death while loading or in the self-test."""

    cause: Cause
    words: str
    last: LastStep
    serving: bool


def crash_cause(code: int, *, stalled: bool, ended: bool, out_of_memory: bool) -> Cause:
    """Why a process ended with `code` (negative: a signal).

    `stalled`: its watchdog killed it; `ended`: it was killed because it no longer made sense.
    """
    if out_of_memory:
        return "memory"
    if stalled:
        return "stall"
    if code == -signal.SIGABRT:
        return "abort"
    if code in _FAULTS:
        return "segfault"
    return "error" if code >= 0 or ended else "signal"


def newest(last: LastStep) -> tuple[int, ...]:
    """The requests that a crash is put down to: what was new in that step.

    That is the prompt that was tokenised, and the prompts that the step read, or else the request that came last.
    """
    reading = [row.handle for row in last.rows if row.reading]
    latest = [max(row.handle for row in last.rows)] if last.rows else []
    preparing = [last.preparing] if last.preparing else []
    return tuple(dict.fromkeys([*preparing, *(reading or ([] if preparing else latest))]))


def describe(last: LastStep, names: Mapping[int, str]) -> str:
    """One line for the log; `names` gives requests that have one a name instead of their number."""
    parts = []
    if last.rows:
        read = sum(row.tokens for row in last.rows if row.reading)
        written = sum(row.tokens for row in last.rows if not row.reading)
        shown = ", ".join(_row(row, names) for row in last.rows[:_SHOWN_ROWS])
        parts.append(
            f"in step {last.number}, which read {read} tokens and decoded {written} "
            f"of {len(last.rows)} requests ({shown})"
        )
    if last.preparing:
        parts.append(f"while request {_name(last.preparing, names)} was tokenised")
    return " and ".join(parts) or f"outside of a step, after {last.number} steps"


def _row(row: Row, names: Mapping[int, str]) -> str:
    return f"{_name(row.handle, names)}: {row.tokens} at {row.start}"


def _name(handle: int, names: Mapping[int, str]) -> str:
    return names.get(handle, f"#{handle}")
