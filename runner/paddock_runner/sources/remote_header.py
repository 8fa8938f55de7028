"""The GGUF header of a file that is not here: a few ranges of it over HTTP, its weights in none.

Called by `commands.estimate`.
"""

from __future__ import annotations

import asyncio
import re

from paddock_runner.sources.errors import NetworkError
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import InvalidGGUFError
from paddock_runner.store.gguf import GGUFHeader, read_gguf_from

MAX_BYTES = 64 << 20
READ_SECONDS = 120.0
_PART = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15})")


class RemoteFile:
    """A `RangeReader`. `read_at` blocks, so it is called in a thread while `loop` runs."""

    def __init__(self, url: str, size: int, transport: Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.size = size
        self._url, self._transport, self._loop = url, transport, loop
        self._left = MAX_BYTES

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`. Raises InvalidGGUFError past MAX_BYTES in all, and as `Transport.read`."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        self._left -= size
        if self._left < 0:
            raise InvalidGGUFError("header", f"is larger than {MAX_BYTES} bytes; pull the model to look at it")
        reading = _range(self._transport, self._url, offset, size)
        return asyncio.run_coroutine_threadsafe(reading, self._loop).result(READ_SECONDS)[0]


async def read_remote_header(url: str, size: int | None, transport: Transport) -> GGUFHeader:
    """Read and check the header of a file, or of one part of a split one; `size` in bytes, None if it is not known.

    Raises NotGGUFError, TruncatedGGUFError, InvalidGGUFError and as `Transport.read`; NetworkError, not retryable, for
    a server that sends no ranges.
    """
    if size is None:
        size = (await _range(transport, url, 0, 1))[1]
    reader = RemoteFile(url, size, transport, asyncio.get_running_loop())
    return await asyncio.to_thread(read_gguf_from, reader, part=True)


async def _range(transport: Transport, url: str, offset: int, size: int) -> tuple[bytes, int]:
    """(bytes, size of the whole file)."""
    headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
    answer = await transport.read(url, limit=size, headers=headers, ok=(206,))
    part = _PART.fullmatch(answer.headers.get("Content-Range", ""))
    if part is None:
        raise NetworkError("the server does not say how large the file is; pull the model to look at it")
    if int(part[1]) != offset:
        raise NetworkError(f"the server sends bytes from {part[1]} on instead of {offset}", retryable=False)
    return answer.body, int(part[2])
