"""Who is calling: API keys by their SHA-256. Called by `gateway.app` for every request that needs a key.

The clear key exists only inside `authenticate`; what leaves is the `Key` record. Whatever is wrong with a credential,
the answer is the same; only the metric tells missing, malformed, unknown and expired apart.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from paddock_runner.core.gateway_config import Key
from paddock_runner.gateway.errors import Refusal, retry_after
from paddock_runner.gateway.limits import Buckets

AuthResult = Literal["ok", "missing", "malformed", "unknown", "expired"]

FAILURES_AT_ONCE = 20
FAILURES_PER_MINUTE = 60

_KEY = re.compile(rb"pdk_[0-9a-f]{8}_[A-Za-z0-9_-]{43}")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] ([!-~]+)")
_DUMMY = hashlib.sha256(b"no key has this hash").hexdigest()
_MESSAGE = "invalid or missing API key; send Authorization: Bearer KEY"


class AuthFailure(Exception):  # noqa: N818
    """The credential does not open this Endpoint; `result` is for metrics only."""

    def __init__(self, result: AuthResult) -> None:
        super().__init__(result)
        self.result: AuthResult = result


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Key
    sha256: str
    until: float | None


class KeyRing:
    """The keys of one configuration, found by hash: a current hash, or a previous one until its date."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._entries: dict[str, _Entry] = {}
        for key in keys:
            if key.previous:
                self._entries.setdefault(key.previous.sha256, _Entry(key, key.previous.sha256, key.previous.until))
            self._entries[key.sha256] = _Entry(key, key.sha256, None)

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]], now: float) -> Key:
        """The key that the headers show; `now` is seconds since 1970. Raises `AuthFailure`."""
        digest = hashlib.sha256(_presented(headers)).hexdigest()
        entry = self._entries.get(digest)
        # The comparison runs for unknown hashes too: both ways take the same time.
        matches = hmac.compare_digest(digest, entry.sha256 if entry else _DUMMY)
        if entry is None or not matches:
            raise AuthFailure("unknown")
        if _is_over(entry.until, now) or _is_over(entry.key.expires, now):
            raise AuthFailure("expired")
        return entry.key


class FailureLimit:
    """Slows down addresses that keep showing bad credentials. A good key is never affected by it."""

    def __init__(self) -> None:
        self._buckets = Buckets()

    def refusal(self, address: str, now: float) -> Refusal:
        """What a failed attempt from this address gets: 401, or 429 after too many. `now` is monotonic."""
        wait = self._buckets.take(address, FAILURES_PER_MINUTE, now, burst=FAILURES_AT_ONCE)
        if wait:
            return retry_after("auth_throttled", "too many failed attempts; wait before the next one", wait)
        return Refusal("unauthorized", _MESSAGE, headers={"WWW-Authenticate": "Bearer"})


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The one credential of a request. Never from the query or a cookie."""
    shown = [(name, value) for name, value in headers if name in (b"authorization", b"x-api-key")]
    if not shown:
        raise AuthFailure("missing")
    if len(shown) > 1:
        raise AuthFailure("malformed")
    name, value = shown[0]
    if name == b"authorization":
        bearer = _BEARER.fullmatch(value)
        value = bearer.group(1) if bearer else b""
    if not _KEY.fullmatch(value):
        raise AuthFailure("malformed")
    return value


def _is_over(end: float | None, now: float) -> bool:
    return end is not None and now >= end
