"""The few calls of the Kubernetes API that a gateway makes: get, list, watch, merge patch. Used by `gateway.cluster`.

Every call has a deadline and a bound on what it reads. Proxies of the environment are ignored: the API server is near.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
from aiohttp.connector import NEEDS_CLEANUP_CLOSED

from paddock_runner.gateway.cluster.access import Access

Json = dict[str, Any]

CALL_SECONDS = 15.0
CONNECT_SECONDS = 5.0
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_EVENT_BYTES = 8 * 1024 * 1024
PAGE_OBJECTS = 500
MAX_PAGES = 40
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


class ApiError(Exception):
    """The API server could not be asked (`status` 0), or said no. The message holds no secret."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One session with the API server. Must be made inside the event loop; call `close` at the end."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session = aiohttp.ClientSession(
            # Otherwise a connection whose call was given up waits for TLS's farewell, beyond `close`.
            connector=aiohttp.TCPConnector(enable_cleanup_closed=NEEDS_CLEANUP_CLOSED),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """The object at `path`. Raises `ApiError`."""
        return await self._call("GET", path, query=query)

    async def list(self, path: str, query: Mapping[str, str]) -> tuple[list[Json], str]:
        """All objects of a collection and its resourceVersion, page by page. Raises `ApiError`."""
        objects: list[Json] = []
        more = {"limit": str(PAGE_OBJECTS)}
        for _ in range(MAX_PAGES):
            page = await self.get(path, {**query, **more})
            objects += page.get("items") or []
            meta: Json = page.get("metadata") or {}
            if not meta.get("continue"):
                return objects, str(meta.get("resourceVersion", ""))
            more["continue"] = meta["continue"]
        raise ApiError(0, f"{path} holds more than {MAX_PAGES * PAGE_OBJECTS} objects")

    async def merge_patch(self, path: str, body: Json) -> None:
        """Apply an RFC 7396 patch to the object at `path`. Raises `ApiError`."""
        media = {"Content-Type": "application/merge-patch+json"}
        query = {"fieldManager": "paddock-gateway"}
        await self._call("PATCH", path, query=query, headers=media, data=json.dumps(body).encode())

    async def watch(self, path: str, query: Mapping[str, str], seconds: float) -> AsyncGenerator[Json]:
        """The events of a watch until the server ends it. Raises `ApiError`; also after `seconds`, whatever happened.

        The first item is an empty one: the watch stands.
        """
        try:
            async with asyncio.timeout(seconds), self._request("GET", path, query={**query, "watch": "1"}) as response:
                await _check(response)
                try:
                    yield {}
                    async for line in _lines(response.content):
                        yield _object(line)
                finally:
                    _abort(response)
        except _FAILURES as error:
            raise _failure(error) from error

    async def _call(self, method: str, path: str, **options: Any) -> Json:
        try:
            async with asyncio.timeout(CALL_SECONDS), self._request(method, path, **options) as response:
                await _check(response)
                return _object(await _bounded(response, MAX_ANSWER_BYTES))
        except _FAILURES as error:
            raise _failure(error) from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        access = self._access
        return self._session.request(
            method,
            access.base + path,
            params=query,
            headers={"Authorization": access.authorization(), "Accept": "application/json", **(headers or {})},
            data=data,
            allow_redirects=False,
            ssl=access.tls() if access.base.startswith("https:") else False,
        )


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 300:
        return
    try:
        message = str(_object(await _bounded(response, 64 * 1024)).get("message", ""))
    except ValueError:
        message = ""
    raise ApiError(response.status, f"{response.status} {message or response.reason}"[:500])


def _abort(response: aiohttp.ClientResponse) -> None:
    """Drop a connection in the middle of an answer, without TLS's farewell; does nothing after a good end."""
    if response.connection and response.connection.transport:
        response.connection.transport.abort()


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        if (size := size + len(part)) > limit:
            raise ValueError(f"the answer is larger than {limit} bytes")
    return b"".join(parts)


async def _lines(stream: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
    rest = b""
    async for part in stream.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > MAX_EVENT_BYTES:
            raise ValueError(f"an event is larger than {MAX_EVENT_BYTES} bytes")


def _object(text: bytes) -> Json:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("the answer is not a JSON object")
    return value


def _failure(error: Exception) -> ApiError:
    return ApiError(0, "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}")
