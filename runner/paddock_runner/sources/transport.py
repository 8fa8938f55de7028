"""Every request of a source: judged addresses, redirects by hand, credentials for one origin, mirrors, typed errors.

Used by all sources and by the download engine. `read` brings small answers and tries again; `open` is one attempt at a
stream. Credentials go to the origin they belong to and to nobody else, also not after a redirect or to a mirror.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from paddock_runner.sources.addresses import CheckedResolver
from paddock_runner.sources.auth import Access
from paddock_runner.sources.challenge import parse_challenges
from paddock_runner.sources.errors import NetworkError, OfflineError, UnauthorizedError
from paddock_runner.sources.network import Network
from paddock_runner.sources.statuses import raise_for_status, retry_after
from paddock_runner.store.errors import NotFoundError, StoreError

MAX_REDIRECTS = 5
READ_BYTES = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_UNAUTHORIZED = 401
_EMPTY: Mapping[str, str] = {}

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
    """One request as its source wants it."""

    method: str
    headers: Mapping[str, str]
    data: Data
    ok: Collection[int]
    scope: str


class Transport:
    """A session; an async context manager. `access` belongs to one origin."""

    def __init__(self, network: Network, access: Access | None = None) -> None:
        self.network = network
        self.access = access
        self._session: aiohttp.ClientSession | None = None
        self._authorizing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        timeouts = self.network.timeouts
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(self.network.rules), use_dns_cache=False, limit=0, ssl=self._ssl()
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect, sock_read=timeouts.silence),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=["User-Agent", "Content-Type"],
            read_bufsize=READ_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _ssl(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.network.ca_file)
        except OSError:
            raise NetworkError(
                f"the CA bundle {self.network.ca_file} cannot be read; correct PADDOCK_CA_FILE", retryable=False
            ) from None

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
    ) -> Answer:
        """A whole answer of at most `limit` bytes; what may pass is tried again. Mirrors are asked first.

        Raises NotFoundError, UnauthorizedError, NetworkError, ForbiddenAddressError, InsecureSourceError,
        SourceUnsupportedError, OfflineError.
        """
        ask = _Ask(method, {"Accept": accept, **headers}, data, ok, scope)
        candidates = self.network.candidates(URL(url)) if method in ("GET", "HEAD") else (URL(url),)
        for mirror in candidates[:-1]:
            try:
                return await self._read_once(mirror, ask, limit)
            except (NetworkError, NotFoundError, UnauthorizedError):
                continue
        return await self._read_patiently(candidates[-1], ask, limit)

    async def _read_patiently(self, url: URL, ask: _Ask, limit: int) -> Answer:
        timeouts = self.network.timeouts
        for attempt in range(1, timeouts.attempts + 1):
            try:
                return await self._read_once(url, ask, limit)
            except NetworkError as error:
                if not error.retryable or attempt == timeouts.attempts:
                    raise
                backoff = timeouts.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311
                wait = max(backoff, min(error.retry_after or 0.0, timeouts.longest_wait))
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def _read_once(self, url: URL, ask: _Ask, limit: int) -> Answer:
        try:
            async with asyncio.timeout(self.network.timeouts.small), self._open(url, ask) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise NetworkError(
                            f"{url.host} answers with more than {limit} bytes where few were expected", retryable=False
                        )
                return Answer(response.status, response.headers, bytes(body), str(response.url))
        except TimeoutError:
            raise NetworkError(f"{url.host} took longer than {self.network.timeouts.small:g} s to answer") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _broken(url, error) from None

    @asynccontextmanager
    async def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = _EMPTY,
        method: str = "GET",
        data: Data = None,
        ok: Collection[int] = (200,),
        scope: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One attempt at a stream, from a mirror if one has it. Raises as `read` does, before the first byte."""
        ask = _Ask(method, headers, data, ok, scope)
        candidates = self.network.candidates(URL(url)) if method == "GET" else (URL(url),)
        response = await self._first(candidates, ask)
        async with response:
            yield response

    async def _first(self, candidates: tuple[URL, ...], ask: _Ask) -> aiohttp.ClientResponse:
        for mirror in candidates[:-1]:
            try:
                return await self._checked(mirror, ask)
            except (NetworkError, NotFoundError, UnauthorizedError):
                continue
        return await self._checked(candidates[-1], ask)

    @asynccontextmanager
    async def _open(self, url: URL, ask: _Ask) -> AsyncIterator[aiohttp.ClientResponse]:
        async with await self._checked(url, ask) as response:
            yield response

    async def _checked(self, url: URL, ask: _Ask) -> aiohttp.ClientResponse:
        """A response whose status is one of `ask.ok`; network failures become typed errors."""
        if self.network.offline:
            raise OfflineError(f"{url.host} is not asked: PADDOCK_OFFLINE is set; put the model into the cache")
        try:
            response = await self._authorized(url, ask)
        except TimeoutError:
            raise NetworkError(f"{url.host} sent nothing for {self.network.timeouts.silence:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _broken(url, error) from None
        if response.status not in ask.ok:
            try:
                raise_for_status(response.status, url.host or "", response.url.path, retry_after(response.headers))
            finally:
                response.close()
        return response

    async def _authorized(self, url: URL, ask: _Ask) -> aiohttp.ClientResponse:
        """Answer a 401 of the access' own origin once, by a header that is new."""
        shown = self.access.ready() if self._is_ours(url) and self.access else None
        response = await self._follow(url, ask, shown)
        if response.status != _UNAUTHORIZED or self.access is None or not self._is_ours(response.url):
            return response
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        response.close()
        async with self._authorizing:
            # Another request may have renewed it while this one waited.
            value = self.access.ready()
            if value is None or value == shown:
                value = await self.access.header(self, challenges, ask.scope)
        return await self._follow(url, ask, value)

    def _is_ours(self, url: URL) -> bool:
        return self.access is not None and url.origin() == URL(self.access.origin).origin()

    async def _follow(self, url: URL, ask: _Ask, authorization: str | None) -> aiohttp.ClientResponse:
        for _ in range(MAX_REDIRECTS + 1):
            self.network.rules.check(url)
            response = await self._send(url, ask, authorization if self._is_ours(url) else None)
            if response.status not in _REDIRECTS or response.status in ask.ok:
                return response
            location = response.headers.get("Location", "")
            response.close()
            url = _next(url, location)
        raise NetworkError(f"{url.host}: more than {MAX_REDIRECTS} redirects", retryable=False)

    async def _send(self, url: URL, ask: _Ask, authorization: str | None) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the transport is not open")
        headers = {"Accept-Encoding": "identity", "User-Agent": "paddock", **ask.headers}
        if authorization is not None:
            headers["Authorization"] = authorization
        return await self._session.request(
            ask.method, url, headers=headers, data=ask.data, allow_redirects=False, proxy=self.network.proxy_for(url)
        )


def _next(url: URL, location: str) -> URL:
    try:
        return url.join(URL(location))
    except ValueError:
        raise NetworkError(f"{url.host} redirects to something that is no URL", retryable=False) from None


def _broken(url: URL, error: Exception) -> StoreError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return NetworkError(
            f"the certificate of {url.host} is not trusted; name its CA bundle in PADDOCK_CA_FILE", retryable=False
        )
    # The message of some errors holds the whole URL, whose query may be a signature.
    detail = str(error).partition("?")[0][:300]
    return NetworkError(f"{url.host}: {type(error).__name__}: {detail}")
