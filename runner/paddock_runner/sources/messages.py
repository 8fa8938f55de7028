"""One request and its answer as values: which headers are private, what a URL is, how a body is read within a limit.

Used by `transport`; `parse_url` by sources that are given URLs.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from yarl import URL

from paddock_runner.sources.errors import NetworkError, SourceUnsupportedError

EMPTY: Mapping[str, str] = {}
_DEFAULTS = {"Accept-Encoding": "identity", "User-Agent": "paddock"}
_PRIVATE = ("authorization", "cookie")
_PLAIN = re.compile(r"[!-~]+")

Data = bytes | AsyncIterable[bytes] | None


@dataclass(frozen=True, slots=True)
class Ask:
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
    alone: bool

    @classmethod
    def make(
        cls,
        url: str,
        method: str,
        headers: Mapping[str, str],
        data: Data,
        ok: Collection[int],
        *,
        scope: str,
        alone: bool = False,
    ) -> Self:
        """Sort the headers. Raises SourceUnsupportedError for what is no URL."""
        private = {key: value for key, value in headers.items() if key.lower() in _PRIVATE}
        public = {key: value for key, value in headers.items() if key not in private}
        return cls(_first(url), method, {**_DEFAULTS, **public}, private, data, ok, scope, alone)


def parse_url(text: str) -> URL:
    """The URL as it was written, since a signature may cover its bytes; only what HTTP cannot carry is quoted.

    Raises ValueError.
    """
    url = URL(text, encoded=_PLAIN.fullmatch(text) is not None).with_fragment(None)
    # Parsed when they are asked for, and only then refused.
    _ = url.port, url.host
    return url


def address_of(base: str, location: str) -> str:
    """The absolute address that a server names by `location` in its answer from `base`. Raises NetworkError."""
    return str(next_url(_first(base), location))


def origin_of(text: str) -> URL:
    """The origin of a URL. Raises SourceUnsupportedError."""
    try:
        return parse_url(text).origin()
    except ValueError:
        raise SourceUnsupportedError(f"{text[:200]!r} is no address of a server") from None


def _first(text: str) -> URL:
    try:
        return parse_url(text)
    except ValueError:
        raise SourceUnsupportedError("the URL is not one; it must be https://host/path") from None


def next_url(url: URL, location: str) -> URL:
    """Where a redirect of `url` leads. Raises NetworkError."""
    try:
        if not location:
            raise ValueError
        return url.join(parse_url(location))
    except ValueError:
        raise NetworkError(f"{url.host} sends to something that is no URL", retryable=False) from None


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, at most `limit` bytes of it. Raises NetworkError."""
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
