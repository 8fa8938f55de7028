"""The configuration in force: from the file until the API server was heard, from then on what its watch said.

Made by `gateway.app`. The kubelet refreshes a mounted Secret up to 90 s late, so a file that changes after the watch
spoke is the past: it must not bring a revoked key back.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from paddock_runner.configfile import MAX_BYTES, ConfigFile
from paddock_runner.gateway.snapshot import Snapshot

Source = Literal["file", "watch"]
SOURCES: tuple[Source, ...] = ("file", "watch")


class Configuration(ConfigFile[Snapshot]):
    """`source` says where the value in force came from."""

    source: Source = "file"
    _heard = False
    _refused = ""

    def poll(self) -> bool:
        """Look at the file, unless the watch has spoken."""
        return False if self._heard else super().poll()

    def take(self, body: bytes) -> bool:
        """What the watch says; True if a new value came into force. A bad one is refused and the last good stays."""
        self._heard = True
        digest = hashlib.sha256(body).hexdigest()
        if digest == self.sha256:
            self.source = "watch"
            return False
        try:
            if len(body) > MAX_BYTES:
                raise ValueError(f"the Secret's gateway.json is larger than {MAX_BYTES} bytes")
            value = self._parse(body)
        except ValueError as error:
            self._refuse(digest, str(error))
            return False
        self.value, self.sha256, self.source, self._refused = value, digest, "watch", ""
        if self._on_change:
            self._on_change(value)
        return True

    def _refuse(self, digest: str, message: str) -> None:
        if digest != self._refused and self._on_error:
            self._on_error(message)
        self._refused = digest
