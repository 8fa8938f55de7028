"""HTTP statuses, Retry-After and failed connections as typed errors whose words are safe to show.

Called by `transport`. The query of a URL is never shown: it may hold a signature.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from paddock_runner.sources.errors import NetworkError, UnauthorizedError
from paddock_runner.sources.network import CA_FILE
from paddock_runner.store.errors import NotFoundError, StoreError

MAX_SHOWN_PATH = 512
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""What OpenSSL makes of an answer in plain text."""
_QUERY = re.compile(r"\?\S*")


def place(url: URL) -> str:
    """The server of a URL for people: host, and the port if it is not the scheme's own."""
    return url.host_port_subcomponent or ""


def shown(url: URL) -> str:
    """A URL for people: server and path."""
    return f"{place(url)}{path_of(url)}"


def path_of(url: URL) -> str:
    """The path of a URL for people. A server chooses it by a redirect: what a terminal would obey is not repeated."""
    return plain(url.path[:MAX_SHOWN_PATH])


def plain(text: str) -> str:
    """`text` with a question mark in the place of every character that cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def from_status(status: int, url: URL, wait: float) -> StoreError:
    """UnauthorizedError, NotFoundError or NetworkError (with `wait` seconds) for a status nobody wanted."""
    if status in (401, 403):
        return UnauthorizedError(f"{place(url)} refuses {path_of(url)} (HTTP {status})")
    if status in (404, 410):
        return NotFoundError(f"{place(url)} does not have {path_of(url)} (HTTP {status})")
    retryable = status in (408, 425, 429) or status >= 500
    message = f"{place(url)} answers HTTP {status} for {path_of(url)}"
    return NetworkError(message, retryable=retryable, retry_after=wait)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the header Retry-After asks for, in either of its forms; 0 without a sensible one."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def from_failure(error: Exception, url: URL) -> NetworkError:
    """The error for a connection that could not be made, or that broke."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        problem = plain(_QUERY.sub("", str(getattr(error, "certificate_error", error)))[:200])
        return NetworkError(
            f"the certificate of {place(url)} is not trusted ({problem}); if an authority of your own signed it, name "
            f"the file with that authority's certificate in {CA_FILE}",
            retryable=False,
        )
    if isinstance(error, TimeoutError):
        return NetworkError(f"{place(url)} sent nothing in time")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return NetworkError(f"the proxy on the way to {place(url)} cannot be reached")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return NetworkError(f"the proxy on the way to {place(url)} answers HTTP {error.status}")
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ssl.SSLError) and error.os_error.reason in _NO_TLS:
            return NetworkError(f"{place(url)} speaks no TLS; if that is meant, ask it by http://", retryable=False)
        return NetworkError(f"{place(url)} cannot be reached: {error.strerror or type(error.os_error).__name__}")
    return NetworkError(f"{place(url)}: {type(error).__name__}: {plain(_QUERY.sub('', str(error))[:300])}")
