"""Every request of a source: judged addresses, redirects by hand, credentials for one origin, mirrors, typed errors.

Used by all sources and by the download engine. `read` brings small answers and tries again; `open` is one attempt at a
stream. Credentials go to the origin they belong to and to nobody else, also not after a redirect or to a mirror.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from paddock_runner.sources.addresses import CheckedResolver, NamedResolver
from paddock_runner.sources.auth import Access
from paddock_runner.sources.challenge import Challenge, parse_challenges
from paddock_runner.sources.errors import NetworkError, OfflineError, SourceUnsupportedError
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
_PRIVATE = ("authorization", "cookie")
_PLAIN = re.compile(r"[!-~]+")
_EMPTY: Mapping[str, str] = {}

log = logging.getLogger(__name__)

Data = bytes | AsyncIterable[bytes] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A small answer: `headers` ignore case, `url` is where it came from after redirects."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request as its source wants it. `private` headers go to the origin of `url` only.

    With `alone` neither the access nor a mirror has a part in it.
    """

    url: URL
    method: str
    headers: Mapping[str, str]
    private: Mapping[str, str] = field(repr=False)
    data: Data
    ok: Collection[int]
    scope: str
    alone: bool = False


class Transport:
    """A session; an async context manager. `access` belongs to one origin."""

    def __init__(self, network: Network, access: Access | None = None) -> None:
        self.network = network
        self.access = access
        self._origin = None if access is None else URL(access.origin).origin()
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
        headers: Mapping[str, str] = _EMPTY,
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
        ask = self._ask(url, method, {"Accept": accept, **headers}, data, ok, scope, alone)
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

    async def _read_once(self, ask: _Ask, limit: int) -> Answer:
        seconds = self.network.timeouts.small
        try:
            async with asyncio.timeout(seconds), self._opened(ask) as response:
                body = b"" if ask.method == "HEAD" else await _body(response, limit)
                return Answer(response.status, response.headers, body, str(response.url))
        except TimeoutError:
            raise NetworkError(f"{ask.url.host} took longer than {seconds:g} s to answer") from None

    @contextlib.asynccontextmanager
    async def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = _EMPTY,
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
        async with self._opened(self._ask(url, method, headers, data, ok, scope), mirrors) as response:
            yield response

    def _ask(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        data: Data,
        ok: Collection[int],
        scope: str,
        alone: bool = False,
    ) -> _Ask:
        parsed = _first(url)
        self.network.rules.check(parsed)
        if self.network.offline:
            raise OfflineError(f"{shown(parsed)} is not asked for: {OFFLINE} is set; put the model into the cache")
        private = {key: value for key, value in headers.items() if key.lower() in _PRIVATE}
        public = {key: value for key, value in headers.items() if key not in private}
        defaults = {"Accept-Encoding": "identity", "User-Agent": "paddock"}
        return _Ask(parsed, method, {**defaults, **public}, private, data, ok, scope, alone)

    @contextlib.asynccontextmanager
    async def _opened(self, ask: _Ask, mirrors: bool = True) -> AsyncIterator[aiohttp.ClientResponse]:
        response = (await self._mirrored(ask) if mirrors else None) or await self._direct(ask)
        try:
            yield response
        except aiohttp.ClientError as error:
            raise from_failure(error, response.url) from None
        finally:
            # Gives the connection back if the body was read to its end, and closes it if not.
            response.release()

    async def _mirrored(self, ask: _Ask) -> aiohttp.ClientResponse | None:
        """The answer of the first mirror that has it."""
        if ask.alone or ask.private or ask.method not in _SAFE:
            return None
        for url in self.network.mirrors_of(ask.url):
            if self._resting.get(url.origin(), 0.0) > time.monotonic():
                continue
            try:
                response = await self._follow(ask, url, trusted=False)
            except StoreError as error:
                log.warning("the mirror %s is left alone for %g s: %s", url.host, MIRROR_REST_SECONDS, error)
                self._resting[url.origin()] = time.monotonic() + MIRROR_REST_SECONDS
                continue
            if response.status in ask.ok and response.status < 400:
                return response
            response.close()
        return None

    async def _direct(self, ask: _Ask) -> aiohttp.ClientResponse:
        response = await self._follow(ask, ask.url, trusted=True)
        if response.status in ask.ok:
            return response
        response.close()
        raise from_status(response.status, response.url, retry_after(response.headers))

    async def _follow(self, ask: _Ask, url: URL, trusted: bool) -> aiohttp.ClientResponse:
        for _ in range(MAX_REDIRECTS + 1):
            self.network.rules.check(url)
            response = await (self._authorized(ask, url) if trusted else self._send(ask, url, _EMPTY))
            if response.status not in REDIRECTS or response.status in ask.ok:
                return response
            response.close()
            if ask.method not in _SAFE:
                raise NetworkError(f"{shown(url)} redirects a {ask.method}", retryable=False)
            url = _next(url, response.headers.get("Location", ""))
        raise NetworkError(f"{ask.url.host}: more than {MAX_REDIRECTS} redirects", retryable=False)

    async def _authorized(self, ask: _Ask, url: URL) -> aiohttp.ClientResponse:
        """Send what belongs to this origin; a 401 of the access' own origin is answered once, with a new header."""
        if ask.private or ask.alone or self.access is None or url.origin() != self._origin:
            return await self._send(ask, url, ask.private if url.origin() == ask.url.origin() else _EMPTY)
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

    async def _send(self, ask: _Ask, url: URL, private: Mapping[str, str]) -> aiohttp.ClientResponse:
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


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise NetworkError(f"{response.url.host} answers with Content-Encoding {encoding[:40]!r}", retryable=False)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            host = response.url.host
            raise NetworkError(f"{host} answers with more than {limit} bytes where few were expected", retryable=False)
    return bytes(body)


def _header(value: str | None) -> Mapping[str, str]:
    return _EMPTY if value is None else {"Authorization": value}


def parse_url(text: str) -> URL:
    """The URL as it was written, since a signature may cover its bytes; only what HTTP cannot carry is quoted.

    Raises ValueError.
    """
    return URL(text, encoded=_PLAIN.fullmatch(text) is not None).with_fragment(None)


def _first(text: str) -> URL:
    try:
        return parse_url(text)
    except ValueError:
        raise SourceUnsupportedError("the URL is not one; it must be https://host/path") from None


def _next(url: URL, location: str) -> URL:
    try:
        if not location:
            raise ValueError
        return url.join(parse_url(location))
    except ValueError:
        raise NetworkError(f"{url.host} redirects to something that is no URL", retryable=False) from None
