"""What short-lived programs say: JSON lines on stdout, the last of them also as a container's termination message.

Used by `pull` and `collect`. The last event always fits into a termination message, so both hold the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_VERDICT_BYTES = 4096
"""What a kubelet keeps of one container's termination message."""

ENVIRONMENT = "env:"

log = logging.getLogger(__name__)


def encoded(event: Mapping[str, Any]) -> str:
    """The event as one line of JSON, without the line's end."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


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
    while len(line.encode("utf-8", "surrogateescape")) > MAX_VERDICT_BYTES and text:
        text = text[: len(text) * 3 // 4]
        line = encoded({**event, "message": f"{text}…"})
    return line
