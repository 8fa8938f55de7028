"""JSON lines on stderr with the id of the request they belong to. Every program of the runner calls `setup` once.

A line holds `time` (RFC 3339, UTC), `level`, `logger`, `message`, `component`, `request_id` and what the caller passed
as `extra`. Values are capped, so that nobody can fill a disk through one field. Prompts and keys are never passed here.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

MAX_VALUE = 2_000
MAX_TRACEBACK = 8_000

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The request that the current task works for; empty outside a request."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup(component: str, *, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send every log record of this process to `stream` (stderr) as JSON lines; replaces earlier handlers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONLines(component))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


class JSONLines(logging.Formatter):
    """Formats one record as one line of JSON."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _capped(record.getMessage(), MAX_VALUE),
            "component": self._component,
        }
        if identity := request_id.get():
            entry["request_id"] = identity
        for name, value in vars(record).items():
            if name not in _STANDARD:
                entry.setdefault(name, _plain(value))
        if record.exc_info:
            entry["traceback"] = _capped(self.formatException(record.exc_info), MAX_TRACEBACK)
        return json.dumps(entry)


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _capped(str(value), MAX_VALUE)


def _capped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
