"""Append a child's stderr to a file of bounded size: at MAX_BYTES it becomes `<name>.1` and a new one begins.

Called by `process`. A disk that is full loses log lines, never the child.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024


class LogFile:
    """One log with at most one predecessor, so at most 2 * MAX_BYTES on disk."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max = max_bytes
        self._descriptor = self._open()
        self._size = os.fstat(self._descriptor).st_size

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Append `data`; errors of the disk are swallowed."""
        with contextlib.suppress(OSError):
            if self._size and self._size + len(data) > self._max:
                self._rotate()
            self._size += os.write(self._descriptor, data)

    def _rotate(self) -> None:
        os.replace(self._path, self._path.with_name(self._path.name + ".1"))
        os.close(self._descriptor)
        self._descriptor = self._open()
        self._size = 0

    def close(self) -> None:
        os.close(self._descriptor)
