"""llama.cpp's log: captured, kept in part, written on as our JSON lines. Called by `engine.llama` and `engine.child`.

The sizes of the buffers are nowhere else: no function tells them, only the log of a load.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterable

from paddock_runner.engine.llama_bindings import api

# ggml_log_level: 2 info, 3 warn, 4 error, 5 continuation. Its own debug (1) is dropped: thousands of lines at a load.
_LEVELS = {2: "debug", 3: "info", 4: "warning", 5: "debug"}
_ORDER = ("debug", "info", "warning", "error", "critical")
_KEPT_LINES = 2000
_KEPT_ERRORS = 4
_BUFFER = re.compile(r"(\w+)\s+buffer size\s*=\s*([0-9.]+) MiB")
_FLASH_ATTENTION = re.compile(r"Flash Attention (enabled|not supported)|flash_attn\s*=\s*(\w+)")


class LogCapture:
    """`lines` are the latest, `errors` the latest errors, `level` is the least level that is written on."""

    def __init__(self, level: str) -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.errors: deque[str] = deque(maxlen=_KEPT_ERRORS)
        self._least = _ORDER.index(level) if level in _ORDER else 1
        self._callback = api.llama_log_callback(self._on_line)

    def install(self) -> None:
        """Send all of llama.cpp's log here. The object must live as long as the library is used."""
        api.llama_log_set(self._callback, None)

    def write(self, level: str, message: str) -> None:
        """One JSON line on stderr, if `level` is high enough."""
        if _ORDER.index(level) >= self._least:
            record = {"time": round(time.time(), 3), "level": level, "logger": "engine", "message": message}
            sys.stderr.write(json.dumps(record) + "\n")
            sys.stderr.flush()

    def _on_line(self, level: int, text: bytes | None, _: object) -> None:
        line = (text or b"").decode(errors="replace").rstrip()
        if level not in _LEVELS or not line.strip("."):
            return
        self.lines.append(line)
        if level == 4:
            self.errors.append(line)
        self.write(_LEVELS[level], line)


def buffer_bytes(lines: Iterable[str]) -> dict[str, int]:
    """Bytes by kind (`KV`, `compute`, `output`, `model`, `RS`) that llama.cpp says it allocated, all devices."""
    sizes: dict[str, int] = {}
    for line in lines:
        match = _BUFFER.search(line)
        if match:
            sizes[match[1]] = sizes.get(match[1], 0) + round(float(match[2]) * 1024 * 1024)
    return sizes


def flash_attention_in_force(lines: Iterable[str]) -> bool:
    """What the last word on it was: `auto` is resolved in a later line than the one that repeats the wish."""
    state = ""
    for line in lines:
        match = _FLASH_ATTENTION.search(line)
        if match:
            state = (match[1] or match[2]).lower()
    return state == "enabled"
