"""HTTP statuses and Retry-After as typed errors. Called by `transport`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from paddock_runner.sources.errors import NetworkError, UnauthorizedError
from paddock_runner.store.errors import NotFoundError

MAX_SHOWN_PATH = 512
"""The query is never shown: it may hold a signature."""


def raise_for_status(status: int, host: str, path: str, wait: float | None) -> None:
    """Raise UnauthorizedError, NotFoundError or NetworkError (with `wait` seconds) for a status nobody wanted."""
    if status in (401, 403):
        raise UnauthorizedError(f"{host} refuses the download (HTTP {status})")
    if status in (404, 410):
        raise NotFoundError(f"{host} does not have {path[:MAX_SHOWN_PATH]} (HTTP {status})")
    retryable = status in (408, 425, 429) or status >= 500
    raise NetworkError(f"{host} answers HTTP {status}", retryable=retryable, retry_after=wait)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header Retry-After asks for, in either of its forms; None without a sensible one."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
