"""Requests for the bytes of one file: opened, judged, watched, within the bandwidth limit.

Used by the two ways of downloading, `sources.download.ranges` and `sources.download.stream`.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from paddock_runner.sources.download.answers import JUDGED, Body, check_magic, judge, strong_etag
from paddock_runner.sources.download.intake import Intake, take_over
from paddock_runner.sources.download.leases import range_header
from paddock_runner.sources.download.pace import Bucket, DownloadLimits
from paddock_runner.sources.download.watch import Watch, Watched
from paddock_runner.sources.errors import NetworkError
from paddock_runner.sources.statuses import plain
from paddock_runner.sources.transport import Transport
from paddock_runner.store.direct import BLOCK, Buffers

_BUCKETS: weakref.WeakKeyDictionary[Transport, Bucket] = weakref.WeakKeyDictionary()


def bucket_of(transport: Transport) -> Bucket:
    """The bandwidth limit that all downloads through `transport` share."""
    if transport not in _BUCKETS:
        _BUCKETS[transport] = Bucket(transport.network.rate)
    return _BUCKETS[transport]


@dataclass(slots=True)
class Incoming:
    """An answer that may be used: its body, and the strong ETag ("" without one) of the place that sent it.

    `intake` reads it if the HTTP client does not.
    """

    body: Body
    etag: str
    place: str
    watched: Watched
    response: aiohttp.ClientResponse
    intake: Intake | None = None


class Requests:
    """The requests of one file of `kind` at `url`."""

    def __init__(self, url: str, kind: str, transport: Transport, limits: DownloadLimits) -> None:
        self.limits = limits
        self.host = URL(url).host or url
        self.connections = max(1, transport.network.connections)
        self.received = 0
        self.mirrors = True
        """Whether mirrors are asked; not for bytes that came wrong once."""
        self._url = url
        self._kind = kind
        self._transport = transport
        self._bucket = bucket_of(transport)
        self._buffers = Buffers(max(BLOCK, limits.chunk_bytes // 2 // BLOCK * BLOCK))
        self.watch = Watch(limits, self._bucket.rate, self.connections)

    @contextlib.asynccontextmanager
    async def open(self, start: int, end: int, size: int | None, if_range: str = "") -> AsyncIterator[Incoming]:
        """Ask for bytes `start` to `end` of a file of `size` bytes (None: not known).

        With `if_range`, a strong ETag, a file that changed is answered whole. Raises RangesUselessError, NetworkError
        and what the transport raises.
        """
        headers = {"Accept-Encoding": "identity"}
        if (wanted := range_header(start, end, size)) is not None:
            headers["Range"] = wanted
            headers |= {"If-Range": if_range} if if_range else {}
        try:
            async with (
                self.watch.request(self.host) as watched,
                self._transport.open(self._url, headers=headers, ok=JUDGED, mirrors=self.mirrors) as response,
            ):
                body = judge(response.status, response.headers, start, end, wanted is not None)
                if (body.total or 0) > self.limits.maximum_bytes:
                    raise NetworkError(
                        f"the file has {body.total} bytes, the limit is {self.limits.maximum_bytes}", retryable=False
                    )
                place = str(response.url.origin())
                yield (incoming := Incoming(body, strong_etag(response.headers), place, watched, response))
                if incoming.intake is not None:
                    incoming.intake.hand_back(response)
        except (aiohttp.ClientError, OSError) as error:
            # The message of some errors holds the whole URL, whose query may be a signature.
            detail = plain(str(error).partition("?")[0][:300])
            raise NetworkError(f"{self.host}: {type(error).__name__}: {detail}") from None

    async def pieces(self, incoming: Incoming) -> AsyncIterator[bytes | memoryview]:
        """The body as it comes. Raises NotGGUFError at once if it is no GGUF file where one must be."""

        def count(received: int) -> None:
            incoming.watched.received += received
            self.received += received

        begins = True
        async for data in incoming.response.content.iter_any():
            if begins and incoming.body.start == 0:
                check_magic(self._kind, data, incoming.response.headers)
            count(len(data))
            if (delay := self._bucket.delay(len(data), asyncio.get_running_loop().time())) > 0:
                with incoming.watched.held():
                    await asyncio.sleep(delay)
            if begins and self._take_over(incoming, count):
                break
            begins = False
            yield data
        if incoming.intake is not None:
            async for piece in incoming.intake.pieces(self._buffers, incoming.body.start, memoryview(data)):
                yield piece

    def _take_over(self, incoming: Incoming, count: Callable[[int], None]) -> bool:
        body = incoming.body
        # Under a bandwidth limit every few bytes are waited for, and there is nothing to gain.
        if not self._bucket.rate and body.total is not None:
            incoming.intake = take_over(incoming.response, body.end - body.start, 2 * self._buffers.size, count)
        return incoming.intake is not None
