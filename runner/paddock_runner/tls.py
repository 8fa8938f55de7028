"""A server certificate that is replaced while the program runs, as a mounted Secret is. Used by `httpd` and `gateway`.

New connections get the new certificate; a pair that does not fit together is logged and the last good one stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path

INTERVAL = 2.0
"""Seconds between two looks."""

log = logging.getLogger(__name__)

Pair = tuple[str, str]
Signature = tuple[tuple[int, int, int], ...]


class Certificates:
    """`tls.crt` and `tls.key` of a directory. Raises OSError (ssl.SSLError among them) when they are not good."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        pair = self._pair()
        self.context = _loaded(pair)
        self._seen = _signature(pair)

    def poll(self) -> bool:
        """Look at the files now; True if a new pair came into force."""
        try:
            pair = self._pair()
            signature = _signature(pair)
        except OSError:
            return False
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            _loaded(pair)
            self.context.load_cert_chain(*pair)
        except OSError as error:
            log.error("the new certificate is refused, the last good one stays", extra={"problem": str(error)})
            return False
        log.info("a new certificate is in force")
        return True

    async def follow(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self.poll()

    def _pair(self) -> Pair:
        # A mounted Secret changes by one symbolic link; its real directory holds a pair that belongs together.
        real = Path(os.path.realpath(self._directory / "tls.crt")).parent
        if not (real / "tls.key").exists():
            real = self._directory
        return str(real / "tls.crt"), str(real / "tls.key")


def _loaded(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Renegotiation would let a client make the server work for nothing.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(*pair)
    return context


def _signature(pair: Pair) -> Signature:
    states = [os.stat(path) for path in pair]
    return tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)
