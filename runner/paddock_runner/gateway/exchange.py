"""One request and its answer: what the ASGI server gave, what was decided, what was sent. Made by `gateway.app`."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from paddock_runner.core.gateway_config import Dialect
from paddock_runner.gateway.errors import Refusal
from paddock_runner.gateway.routes import Route

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
RawHeaders = Iterable[tuple[bytes, bytes]]

CLIENT_GONE = 499
JSON = b"application/json"
DISCARD_BYTES = 16 * 1024 * 1024
DISCARD_SECONDS = 5.0

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


class ClientGone(Exception):  # noqa: N818
    """The client closed the connection: nobody is left to answer."""


class Exchange:
    """State of one request. `status` is 0 until an answer began; `first_byte` is monotonic, 0 until then."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = _request_id(self.headers.get(b"x-request-id", b""))
        self.started = time.monotonic()
        self.route: Route | None = None
        self.dialect: Dialect = "ollama"
        self.key_id: str | None = None
        self.model: str | None = None
        self.status = 0
        self.reason = ""
        self.first_byte = 0.0
        self.last_byte = b""
        self.finished = False
        self.client_gone = False
        self._unread = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        self._read_any = False

    @property
    def method(self) -> str:
        """The HTTP method as it was sent."""
        method: str = self.scope["method"]
        return method

    @property
    def address(self) -> str:
        """The peer's address; nothing that a client says about itself."""
        client = self.scope.get("client")
        return client[0] if client else "unknown"

    async def read(self, limit: int, seconds: float) -> bytes:
        """The whole body. Raises `Refusal` above `limit` bytes or after `seconds`, `ClientGone` if it never ends."""
        declared = self.headers.get(b"content-length")
        if declared and int(declared) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(seconds):
                return await self._read(limit)
        except TimeoutError:
            message = f"the body did not arrive within {seconds:g} s"
            raise Refusal("body_timeout", message, headers={"Connection": "close"}) from None

    async def _read(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._unread:
            part = await self._next()
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _next(self) -> bytes:
        self._read_any = True
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.client_gone = True
            raise ClientGone
        self._unread = message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def discard(self) -> bool:
        """Read the rest of a refused body, within bounds, so that the client sees the answer and not a reset.

        True when the connection can be used again.
        """
        if b"expect" in self.headers and not self._read_any:
            return not self._unread
        if int(self.headers.get(b"content-length", b"0")) > DISCARD_BYTES:
            return False
        left = DISCARD_BYTES
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while self._unread and left > 0:
                    left -= len(await self._next())
        except TimeoutError:
            return False
        return not self._unread

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send status and headers."""
        self.status = status
        raw = [*headers, (b"x-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body; waits while the client's buffer is full."""
        if not self.first_byte:
            self.first_byte = time.monotonic()
        if not more:
            self.finished = True
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def respond(self, status: int, body: bytes, media: bytes = JSON, headers: RawHeaders = ()) -> None:
        """Send a complete answer."""
        length = str(len(body)).encode()
        await self.start(status, [(b"content-type", media), (b"content-length", length), *headers])
        await self.write(body, more=False)

    async def respond_json(self, value: object, status: int = 200) -> None:
        """Send a complete answer as JSON."""
        await self.respond(status, json.dumps(value).encode())


def _request_id(offered: bytes) -> str:
    return offered.decode("ascii") if _REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)


def _too_large(limit: int) -> Refusal:
    return Refusal("body_too_large", f"the body is larger than {limit} bytes, the limit of this Endpoint")
