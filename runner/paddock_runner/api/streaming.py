"""A reply whose body is generated: it ends the generation as soon as the client is gone. Used by the dialects.

Nothing is sent before the first chunk exists, so an error before it has its true status, also for a stream. Later
errors become one last chunk in the dialect's form. A reader that stalls is cut off by the HTTP server (`httpd`), which
looks like leaving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paddock_runner.api.errors import ApiError, as_api_error

log = logging.getLogger(__name__)

Chunks = AsyncGenerator[bytes, None]


class GeneratedReply(Response):
    """`refuse` makes the reply for an error before the first chunk, `late` the last chunk for one after it."""

    def __init__(
        self,
        chunks: Chunks,
        *,
        media_type: str,
        refuse: Callable[[ApiError], Response],
        late: Callable[[ApiError], bytes],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # Not Response.__init__: that would set a Content-Length for a body that does not exist yet.
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self.init_headers(headers)
        del self.headers["content-length"]
        self._chunks = chunks
        self._refuse = refuse
        self._late = late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the chunks end or the client leaves; the generator is closed in both cases before this returns."""
        pump = asyncio.create_task(self._pump(scope, receive, send))
        gone = asyncio.create_task(_client_left(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            pump.cancel()
            with suppress(asyncio.CancelledError):
                await pump
            await self._chunks.aclose()

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await anext(self._chunks)
        except Exception as error:
            await self._refuse(_told(error))(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _send_body(send, first)
        try:
            async for chunk in self._chunks:
                await _send_body(send, chunk)
        except Exception as error:
            await _send_body(send, self._late(_told(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_body(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _told(error: Exception) -> ApiError:
    told = as_api_error(error)
    if told.reason == "internal":
        log.error("a reply failed", exc_info=error)
    return told
