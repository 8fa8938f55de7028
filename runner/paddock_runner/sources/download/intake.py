"""The body of an answer straight from the socket into memory that a disk can take it from.

Used by `sources.download.requests`. Passing a body through the HTTP client costs more than hashing it: every byte is
copied three times and the loop wakes up for each packet train. What the client does not have to parse, the rest of a
body of known length without a transfer coding, is read here instead; then the client gets its connection back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp

from paddock_runner.store.direct import BLOCK, Buffers


class Intake(asyncio.BufferedProtocol):
    """Takes the place of the client's protocol for the `left` bytes of a body that have not come yet."""

    def __init__(
        self, handler: asyncio.Protocol, transport: asyncio.Transport, left: int, count: Callable[[int], None]
    ) -> None:
        self._handler = handler
        self._transport = transport
        self._count = count
        self._memory = memoryview(b"")
        self._start = 0
        self._at = 0
        self._left = left
        self._lost = False
        self._news = asyncio.Event()

    async def pieces(self, buffers: Buffers, offset: int, first: memoryview) -> AsyncIterator[memoryview]:
        """The rest of the file from byte `offset` on, of which `first` came already.

        A piece ends where a block of the file ends, if it is not the last. Raises aiohttp.ClientPayloadError if the
        connection ends too early, after what came.
        """
        self._start = offset % BLOCK
        while self._left or first:
            self._memory = buffers.take()
            taken = min(len(first), buffers.size - self._start)
            self._at = self._start + taken
            self._memory[self._start : self._at] = first[:taken]
            first = first[taken:]
            await self._fill()
            if piece := self.rest():
                yield piece
            if self._lost and self._left:
                raise aiohttp.ClientPayloadError(f"the connection ended {self._left} bytes too early")

    def rest(self) -> memoryview:
        """What came and was not handed out, once."""
        piece = self._memory[self._start : self._at]
        self._start = self._at = 0
        self._memory = memoryview(b"")
        return piece

    def hand_back(self, response: aiohttp.ClientResponse) -> None:
        """Give the client its connection for the next request, if the body was read to its end."""
        if not self._left and not self._lost:
            self._transport.set_protocol(self._handler)
            response.content.feed_eof()

    async def _fill(self) -> None:
        self._news.clear()
        if self._wants_more and not self._lost:
            self._transport.resume_reading()
            await self._news.wait()

    @property
    def _wants_more(self) -> bool:
        return self._left > 0 and self._at < len(self._memory)

    # What the event loop calls

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._memory[self._at : self._at + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        self._left -= nbytes
        self._count(nbytes)
        if not self._wants_more:
            # No more memory than asked for: what a kill may cost is bounded.
            self._transport.pause_reading()
            self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.connection_lost(exc)
        self._lost = True
        self._news.set()


def take_over(response: aiohttp.ClientResponse, body: int, least: int, count: Callable[[int], None]) -> Intake | None:
    """Read the rest of a body of `body` bytes by an Intake, whose `hand_back` must follow.

    None, and nothing is changed, if less than `least` bytes are left or the client still has a part in the body.
    `count` is told of the bytes as they come. To be called when all bytes that the client has were taken out of it.
    """
    connection = response.connection
    left = body - response.content.total_bytes
    whole = response.headers.get("Content-Length") == str(body) and "Transfer-Encoding" not in response.headers
    if not whole or left < least or connection is None or connection.transport is None or connection.protocol is None:
        return None
    # Stops the client's own clock; `sources.download.watch` has one for downloads.
    connection.protocol.pause_reading()
    intake = Intake(connection.protocol, connection.transport, left, count)
    connection.transport.set_protocol(intake)
    return intake
