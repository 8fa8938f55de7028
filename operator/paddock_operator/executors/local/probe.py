"""Ask a child on loopback for /readyz: bounded in time and bytes, never raising. Called by `model` and `endpoint`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

_LIMIT = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """`status` is the HTTP status, 0 when nothing answered in time."""

    status: int = 0
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.status == 200

    def text(self, name: str) -> str:
        """A member of the body as text, "" when it is absent."""
        return str(self.body.get(name) or "")

    def number(self, name: str) -> int:
        """A member of the body as an integer, 0 when it is absent or none."""
        value = self.body.get(name)
        return value if isinstance(value, int) else 0


async def readyz(address: str) -> Readiness:
    """What `host:port` answers now."""
    try:
        return _parse(await asyncio.wait_for(_get(address), TIMEOUT_SECONDS))
    except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
        return Readiness()


async def _get(address: str) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=_LIMIT)
    try:
        # HTTP/1.0: the answer is not chunked and ends with the connection.
        writer.write(f"GET /readyz HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        return await _all(reader)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _all(reader: asyncio.StreamReader) -> bytes:
    data = b""
    while len(data) <= _LIMIT and (part := await reader.read(_LIMIT)):
        data += part
    return data


def _parse(data: bytes) -> Readiness:
    head, _, body = data.partition(b"\r\n\r\n")
    found = _STATUS.match(head)
    members = json.loads(body)
    return Readiness(int(found[1]) if found else 0, members if isinstance(members, dict) else {})
