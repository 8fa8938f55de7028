"""What short-lived programs say: JSON lines on stdout, the last of them also as a container's termination message.

Used by `pull`, `convert` and `collect`. The last event always fits into a termination message, so both hold the same
bytes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddock_runner.core.digest import Digest

MAX_VERDICT_BYTES = 4096
"""What a kubelet keeps of one container's termination message."""

ENVIRONMENT = "env:"
PROGRESS_SECONDS = 1.0
RATE_SAMPLES = 10
MAX_TRACKED = 64

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Speed:
    """How fast one thing gets done, over the last samples: (seconds, bytes done)."""

    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_SAMPLES))

    def add(self, now: float, completed: int) -> float:
        """Note how much is done; returns bytes per second, 0 while that is not known."""
        if self.samples and completed < self.samples[-1][1]:
            # Begun again, or now it is hashed.
            self.samples.clear()
        self.samples.append((now, completed))
        (first, before), (last, after) = self.samples[0], self.samples[-1]
        return (after - before) / (last - first) if last > first else 0.0


class Progress:
    """Prints at most one event per second, with speed and time left once these are known. `now`: a clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._next = now()
        self._speeds: dict[Digest, Speed] = {}

    def __call__(self, digest: Digest, completed: int, total: int) -> None:
        now = self._now()
        if now < self._next:
            return
        self._next = now + PROGRESS_SECONDS
        event = {"event": "progress", "digest": str(digest), "completed": completed, "total": total}
        if len(self._speeds) >= MAX_TRACKED:
            self._speeds.clear()
        rate = self._speeds.setdefault(digest, Speed()).add(now, completed)
        if rate > 0:
            event |= {"bytesPerSecond": round(rate), "remainingSeconds": math.ceil(max(total - completed, 0) / rate)}
        say(event)


def encoded(event: Mapping[str, Any]) -> str:
    """The event as one line of JSON, without the line's end."""
    return printable(json.dumps(event, ensure_ascii=False, separators=(",", ":")))


def printable(line: str) -> str:
    """`line` as it can be written in UTF-8: names of files and headers of servers may hold bytes that are no text."""
    return line.encode("utf-8", "backslashreplace").decode()


def say(event: Mapping[str, Any]) -> None:
    """Print one event."""
    _print(encoded(event))


def conclude(event: Mapping[str, Any], termination_message: Path | None) -> None:
    """Print the last event and write it to the termination message; a `message` that is too long is cut."""
    line = _fitting(event)
    _print(line)
    if termination_message is None:
        return
    try:
        # In place: a kubelet mounts this very file, and the folder around it is read-only.
        termination_message.write_text(line, encoding="utf-8")
    except OSError as error:
        log.error("the termination message cannot be written: %s", error)


def read_input(where: str, limit: int) -> bytes:
    """The bytes of `env:NAME`, `-` (stdin) or a file, at most `limit` and one more. Raises OSError."""
    if where.startswith(ENVIRONMENT):
        name = where.removeprefix(ENVIRONMENT)
        value = os.environb.get(os.fsencode(name))
        if value is None:
            raise OSError(f"the environment variable {name} is not set")
        return value[: limit + 1]
    if where == "-":
        return sys.stdin.buffer.read(limit + 1)
    with open(where, "rb") as file:
        return file.read(limit + 1)


def _print(line: str) -> None:
    # A handler of SIGTERM prints too: not in the middle of another line.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fitting(event: Mapping[str, Any]) -> str:
    line = encoded(event)
    text = str(event.get("message", ""))
    while len(line.encode()) > MAX_VERDICT_BYTES and text:
        text = text[: len(text) * 3 // 4]
        line = encoded({**event, "message": f"{text}…"})
    return line
