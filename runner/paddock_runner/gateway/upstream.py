"""The HTTP client to the runners: one pool of connections, bytes as they are, nothing added. Called by `gateway.proxy`
and `answers`.

What goes up is a list of allowed headers, so whatever a client claims about itself (X-Forwarded-*, cookies, its key)
ends here. What comes down loses the headers that belong to one connection only.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import aiohttp
from yarl import URL

from paddock_runner.core import strict_json

Failure = Literal["connect_error", "reset", "timeout"]

WRITE_AT_ONCE_BYTES = 256 * 1024
MAX_LIST_BYTES = 1024 * 1024
LIST_SECONDS = 2.0
POOL_KEEP_ALIVE = 30
"""Below the runner's own keep-alive, so that it is us who close an idle connection."""

_UP = ("accept", "content-type", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta")
_DOWN_NEVER = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade server date set-cookie x-request-id www-authenticate".split()
)
_TRACE = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_HEADER = 512


class UpstreamError(Exception):
    """The backend did not answer, or stopped answering."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure: Failure = failure


@dataclass(frozen=True, slots=True)
class Timings:
    """Deadlines in seconds. `idle` is a backend's longest silence: a long prompt on a slow machine takes minutes."""

    body: float = 30.0
    connect: float = 2.0
    idle: float = 600.0


class Upstream:
    """Opens requests at backends. Must be made inside the event loop; call `close` at the end."""

    def __init__(self, timings: Timings) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=POOL_KEEP_ALIVE, ttl_dns_cache=10),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timings.connect, sock_read=timings.idle),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Send a request; returns when the answer's headers are here. Raises `UpstreamError`."""
        # aiohttp writes bytes at once and a file in pieces; a big body must not hold up the event loop.
        data = io.BytesIO(body) if len(body) > WRITE_AT_ONCE_BYTES else body
        try:
            return await self._session.post(URL(url, encoded=True), data=data, headers=headers, allow_redirects=False)
        except aiohttp.ClientError as error:
            raise UpstreamError(failure_of(error)) from error

    async def running(self, backend: str, credential: str) -> dict[str, object] | None:
        """The first entry of a runner's /api/ps; None when nothing is loaded there or it does not answer in time."""
        headers = {"Authorization": f"Bearer {credential}"}
        try:
            async with (
                asyncio.timeout(LIST_SECONDS),
                self._session.get(f"{backend}/api/ps", headers=headers, allow_redirects=False) as response,
            ):
                body = await response.content.read(MAX_LIST_BYTES) if response.status == 200 else b""
                return _first_entry(strict_json.loads(body))
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None


def failure_of(error: BaseException) -> Failure:
    """What kind of failure a client exception is."""
    # A failed connection is a timeout too when it took too long: that it never stood is what matters.
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return "connect_error"
    return "timeout" if isinstance(error, TimeoutError) else "reset"


def headers_up(
    headers: Mapping[bytes, bytes], credential: str, request_id: str, verbs: Iterable[str], tenant: str
) -> dict[str, str]:
    """The headers that a backend gets. `verbs` are what the caller's key may do; the runner decides by them.

    `tenant` is the caller's identity, "" for none: the runner shares time fairly between tenants and no cells.
    """
    result = {
        "Authorization": f"Bearer {credential}",
        "X-Request-Id": request_id,
        "X-Paddock-Verbs": ",".join(sorted(verbs)),
        "X-Paddock-Tenant": tenant,
    }
    for name in _UP:
        value = headers.get(name.encode())
        if value and len(value) <= _MAX_HEADER:
            result[name] = value.decode("latin-1")
    trace = headers.get(b"traceparent", b"")
    if _TRACE.fullmatch(trace):
        result["traceparent"] = trace.decode("ascii")
    return result


def headers_down(response: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    """The headers that a client gets."""
    raw = [(name.lower(), value) for name, value in response.raw_headers]
    named = {token.strip().lower() for name, value in raw if name == b"connection" for token in value.split(b",")}
    return [(name, value) for name, value in raw if name not in _DOWN_NEVER and name not in named]


def _first_entry(document: object) -> dict[str, object] | None:
    entries = document.get("models") if isinstance(document, dict) else None
    return entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], dict) else None
