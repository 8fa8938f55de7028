"""Every request of a source: judged addresses, redirects by hand, credentials for one origin, mirrors, typed errors.

Used by all sources and by the download engine. `read` brings small answers and tries again; `open` is one attempt at a
stream. Credentials go to the origin they belong to and to nobody else, also not after a redirect or to a mirror.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from paddock_runner.sources.addresses import CheckedResolver, NamedResolver
from paddock_runner.sources.auth import Access
from paddock_runner.sources.challenge import Challenge, parse_challenges
from paddock_runner.sources.errors import NetworkError, OfflineError
from paddock_runner.sources.messages import EMPTY, Ask, Data, next_url, origin_of, read_body
from paddock_runner.sources.network import OFFLINE, Network
from paddock_runner.sources.statuses import from_failure, from_status, retry_after, shown
from paddock_runner.store.errors import StoreError

MAX_REDIRECTS = 5
MAX_PAUSE_SECONDS = 10.0
MIRROR_REST_SECONDS = 60.0
READ_BYTES = 256 * 1024
REDIRECTS = (301, 302, 303, 307, 308)
_UNAUTHORIZED = 401
_SAFE = ("GET", "HEAD")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer: `headers` ignore case, `url` is where it came from after redirects."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class Transport:
    """A session; an async context manager. `access` belongs to one origin."""

    def __init__(self, network: Network, access: Access | None = None) -> None:
        self.network = network
        self.access = access
        self._origin = None if access is None else origin_of(access.origin)
        self._stack = contextlib.AsyncExitStack()
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._authorizing = asyncio.Lock()
        self._challenges: tuple[Challenge, ...] = ()
        self._resting: dict[URL, float] = {}

    async def __aenter__(self) -> Self:
        names = frozenset(proxy.host or "" for proxy in self.network.proxies.values())
        resolvers = {False: CheckedResolver(self.network.rules), True: NamedResolver(names)}
        context = self.network.ssl_context()
        for proxied, resolver in resolvers.items():
            connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, limit=0, ssl=context)
            self._sessions[proxied] = await self._stack.enter_async_context(self._session(connector))
        return self

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        timeouts = self.network.timeouts
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.silence),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=["User-Agent", "Content-Type"],
            read_bufsize=READ_BYTES,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sessions = {}
        await self._stack.aclose()

    async def read(
        self,
        url: str,
        *,
        limit: int,
        accept: str = "*/*",
        headers: Mapping[str, str] = EMPTY,
        method: str = "GET",
        data: bytes | None = None,
        ok: Collection[int] = (200,),
        scope: str = "",
        alone: bool = False,
    ) -> Answer:
        """A whole answer of at most `limit` bytes; what may pass is tried again. Mirrors are asked first.

        With `alone` no credentials but those in `headers` are sent, and no mirror is asked. Raises NotFoundError,
        UnauthorizedError, NetworkError, ForbiddenAddressError, InsecureSourceError, SourceUnsupportedError,
        OfflineError.
        """
        ask = Ask.make(url, method, {"Accept": accept, **headers}, data, ok, scope=scope, alone=alone)
        self._admit(ask)
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._read_once(ask, limit)
            except NetworkError as error:
                if attempt >= self.network.timeouts.attempts or not error.retryable:
                    raise
                wait = self._pause(attempt, error.retry_after)
            await asyncio.sleep(wait)

    def _pause(self, attempt: int, asked: float) -> float:
        timeouts = self.network.timeouts
        # Many pullers that failed together must not come back together.
        grown: float = min(timeouts.pause * 2 ** (attempt - 1), MAX_PAUSE_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311
        return max(grown, min(asked, timeouts.longest_wait))

    async def _read_once(self, ask: Ask, limit: int) -> Answer:
        seconds = self.network.timeouts.small
        try:
            async with asyncio.timeout(seconds), self._opened(ask) as response:
                body = b"" if ask.method == "HEAD" else await read_body(response, limit)
                return Answer(response.status, response.headers, body, str(response.url))
        except TimeoutError:
            raise NetworkError(f"{ask.url.host} took longer than {seconds:g} s to answer") from None

    @contextlib.asynccontextmanager
    async def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = EMPTY,
        method: str = "GET",
        data: Data = None,
        ok: Collection[int] = (200,),
        scope: str = "",
        mirrors: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One attempt at a stream, from a mirror if one has it. A redirect's status in `ok` is not followed.

        `data` that can be iterated over again is sent again where credentials have to be renewed.

        Raises as `read` does, and NetworkError if the stream breaks inside the block.
        """
        ask = Ask.make(url, method, headers, data, ok, scope=scope)
        self._admit(ask)
        async with self._opened(ask, mirrors) as response:
            yield response

    def _admit(self, ask: Ask) -> None:
        """Judge a request before any packet."""
        self.network.rules.check(ask.url)
        if self.network.offline:
            raise OfflineError(f"{shown(ask.url)} is not asked for: {OFFLINE} is set; put the model into the cache")

    @contextlib.asynccontextmanager
    async def _opened(self, ask: Ask, mirrors: bool = True) -> AsyncIterator[aiohttp.ClientResponse]:
        mirror, response = (await self._mirrored(ask)) if mirrors else (None, None)
        if response is None:
            response = await self._direct(ask)
        try:
            yield response
        except BaseException as error:
            # Whatever was wrong with its answer, the next attempt need not be the mirror's.
            if mirror is not None:
                self._rest(mirror, error)
            if isinstance(error, aiohttp.ClientError):
                raise from_failure(error, response.url) from None
            raise
        finally:
            # Gives the connection back if the body was read to its end, and closes it if not.
            response.release()

    async def _mirrored(self, ask: Ask) -> tuple[URL | None, aiohttp.ClientResponse | None]:
        """The first mirror that has it, and its answer."""
        private = ask.alone or ask.private or ask.method not in _SAFE
        for url in () if private else self.network.mirrors_of(ask.url):
            if self._resting.get(url.origin(), 0.0) > time.monotonic():
                continue
            try:
                # One that drips must not use up the time that the host itself needs.
                async with asyncio.timeout(self.network.timeouts.silence):
                    response = await self._follow(ask, url, trusted=False)
            except (StoreError, TimeoutError) as error:
                self._rest(url, error)
                continue
            if response.status in ask.ok and response.status < 400:
                return url, response
            response.close()
        return None, None

    def _rest(self, mirror: URL, error: BaseException) -> None:
        words = str(error) if isinstance(error, StoreError) else type(error).__name__
        log.warning("the mirror %s is left alone for %g s: %s", mirror.host, MIRROR_REST_SECONDS, words)
        self._resting[mirror.origin()] = time.monotonic() + MIRROR_REST_SECONDS

    async def _direct(self, ask: Ask) -> aiohttp.ClientResponse:
        response = await self._follow(ask, ask.url, trusted=True)
        if response.status in ask.ok:
            return response
        response.close()
        raise from_status(response.status, response.url, retry_after(response.headers))

    async def _follow(self, ask: Ask, url: URL, trusted: bool) -> aiohttp.ClientResponse:
        for _ in range(MAX_REDIRECTS + 1):
            self.network.rules.check(url)
            response = await (self._authorized(ask, url) if trusted else self._send(ask, url, EMPTY))
            if response.status not in REDIRECTS or response.status in ask.ok:
                return response
            response.close()
            if ask.method not in _SAFE:
                raise NetworkError(f"{shown(url)} redirects a {ask.method}", retryable=False)
            url = next_url(url, response.headers.get("Location", ""))
        raise NetworkError(f"{ask.url.host}: more than {MAX_REDIRECTS} redirects", retryable=False)

    async def _authorized(self, ask: Ask, url: URL) -> aiohttp.ClientResponse:
        """Send what belongs to this origin; a 401 of the access' own origin is answered once, with a new header."""
        if ask.private or ask.alone or self.access is None or url.origin() != self._origin:
            return await self._send(ask, url, ask.private if url.origin() == ask.url.origin() else EMPTY)
        sent = await self._ready(self.access, ask.scope)
        response = await self._send(ask, url, _header(sent))
        if response.status != _UNAUTHORIZED:
            return response
        self._challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        try:
            value = await self._renew(self.access, ask.scope, sent)
        except BaseException:
            response.close()
            raise
        if value is None or value == sent:
            return response
        response.close()
        if isinstance(ask.data, AsyncIterator):
            raise NetworkError(
                f"{url.host} refused the credentials after something was sent, which can be sent only once"
            )
        return await self._send(ask, url, _header(value))

    async def _ready(self, access: Access, scope: str) -> str | None:
        """The header to send at once: one that came of age is renewed before it is refused."""
        value = access.ready()
        return await self._renew(access, scope, None) if value is None and self._challenges else value

    async def _renew(self, access: Access, scope: str, refused: str | None) -> str | None:
        async with self._authorizing:
            # Another request may have renewed it while this one waited.
            value = access.ready()
            return await access.header(self, self._challenges, scope) if value is None or value == refused else value

    async def _send(self, ask: Ask, url: URL, private: Mapping[str, str]) -> aiohttp.ClientResponse:
        proxy = self.network.proxy_for(url)
        session = self._sessions.get(proxy is not None)
        if session is None:
            raise RuntimeError("the transport is not open")
        headers = {**ask.headers, **private}
        try:
            return await session.request(
                ask.method, url, headers=headers, data=ask.data, allow_redirects=False, proxy=proxy
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise from_failure(error, url) from None


def _header(value: str | None) -> Mapping[str, str]:
    return EMPTY if value is None else {"Authorization": value}
