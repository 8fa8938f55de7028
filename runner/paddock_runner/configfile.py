"""A configuration file that is replaced atomically and re-read while the program runs.

Called by `serve` and `gateway`. The last good value stays in force when a new file is missing, unreadable or invalid.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

INTERVAL = 0.5
"""Seconds between two looks: well inside the promise that a change is in force within one second."""

MAX_BYTES = 16 * 1024 * 1024


class ConfigFile(Generic[T]):
    """The value in force (`value`) and the SHA-256 of the bytes that it was made from (`sha256`).

    `parse` turns bytes into a value and raises ValueError with a message for people. `on_change` runs after each
    successful re-read, `on_error` once for each version of the file that is refused.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], T],
        *,
        on_change: Callable[[T], None] | None = None,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        """Reads the file once; raises OSError or ValueError if there is nothing good to start with."""
        self.path = path
        self._parse = parse
        self._on_change = on_change
        self._on_error = on_error
        self._seen = self._signature()
        self.value, self.sha256 = self._read()

    def poll(self) -> bool:
        """Look at the file now; True if a new value came into force."""
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            value, digest = self._read()
        except (OSError, ValueError) as error:
            if self._on_error:
                self._on_error(str(error))
            return False
        if digest == self.sha256:
            return False
        self.value, self.sha256 = value, digest
        if self._on_change:
            self._on_change(value)
        return True

    async def watch(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self.poll()

    def _signature(self) -> tuple[int, int, int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> tuple[T, str]:
        with self.path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise ValueError(f"{self.path} is larger than {MAX_BYTES} bytes")
        return self._parse(body), hashlib.sha256(body).hexdigest()
