"""Notice connections that bring too little, and end them. Used by `sources.download` around every request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from paddock_runner.sources.download.pace import DownloadLimits
from paddock_runner.sources.errors import NetworkError

_LOOKS = 4


class Watched:
    """One request under watch: count its bytes in `received`; `held` while it waits for something of ours."""

    def __init__(self, guard: asyncio.Timeout, now: float) -> None:
        self.received = 0
        self._guard = guard
        self._since = now
        self._before = 0
        self._held = False
        self.slow = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A full disk queue or a bandwidth limit of ours is not the server's fault."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._since = asyncio.get_running_loop().time()
            self._before = self.received

    def look(self, now: float, limits: DownloadLimits, least: float) -> None:
        """End the request if it was slower than `least` bytes/s for too long."""
        if self._held or now - self._since < limits.stall_seconds:
            return
        if self.received - self._before < least * (now - self._since):
            self.slow = self.received > self._before
            self._guard.reschedule(now)
        self._since, self._before = now, self.received


class Watch:
    """All requests of one download."""

    def __init__(self, limits: DownloadLimits, bandwidth: int, connections: int) -> None:
        self._limits = limits
        # A limit of ours must not look like a stall.
        share = bandwidth / (4 * connections) if bandwidth else limits.minimum_rate
        self._least = max(1.0 / limits.stall_seconds, min(float(limits.minimum_rate), share))
        self._requests: set[Watched] = set()

    async def run(self) -> None:
        """Look again and again; cancel it at the end."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._limits.stall_seconds / _LOOKS)
            for request in tuple(self._requests):
                request.look(loop.time(), self._limits, self._least)

    @contextlib.asynccontextmanager
    async def request(self, host: str) -> AsyncIterator[Watched]:
        """Run one request under watch. Raises NetworkError when it stalls."""
        watched: Watched | None = None
        try:
            async with asyncio.timeout(None) as guard:
                watched = Watched(guard, asyncio.get_running_loop().time())
                self._requests.add(watched)
                yield watched
        except TimeoutError:
            seconds = f"{self._limits.stall_seconds:g} s"
            if watched is not None and watched.slow:
                raise NetworkError(f"{host}: slower than {self._least:g} bytes/s for {seconds}") from None
            raise NetworkError(f"{host} sent nothing for {seconds}") from None
        finally:
            if watched is not None:
                self._requests.discard(watched)
