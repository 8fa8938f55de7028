"""What an answer to a request for bytes means: the bytes in its body, or why it must not be used. Pure.

Used by `sources.download`: the transport has judged addresses and redirects; here are the status, the range, the length
and the encoding, so that no byte is ever written to a wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from paddock_runner.core.manifest import MAX_BLOB_BYTES
from paddock_runner.sources.errors import NetworkError
from paddock_runner.sources.statuses import plain
from paddock_runner.store.errors import NotGGUFError
from paddock_runner.store.gguf_tables import MAGIC

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})")
_LENGTH = re.compile(r"\d{1,19}")
_STRONG = re.compile(r'"[\x21\x23-\x7e]{1,256}"')
JUDGED = (200, 206, 416)
"""The statuses that `judge` reads; all others are errors of the transport."""

GGUF_KINDS = ("model", "adapter", "projector")


class RangesUselessError(NetworkError):
    """The answer to a range is not that range; `ignored` when it was the whole file."""

    def __init__(self, message: str, ignored: bool = False) -> None:
        super().__init__(message)
        self.ignored = ignored


@dataclass(frozen=True, slots=True)
class Body:
    """The body holds bytes `start` to `end` of a file of `total` bytes (None: not told, the body runs to its end)."""

    start: int
    end: int
    total: int | None


def judge(status: int, headers: Mapping[str, str], start: int, end: int, ranged: bool) -> Body:
    """Read the answer to a request for bytes `start` to `end` (`ranged`: it had a Range header).

    Raises RangesUselessError, NetworkError.
    """
    encoding = headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise NetworkError(f"the server answers with Content-Encoding {encoding[:40]!r}", retryable=False)
    if status == 206 and ranged:
        return _part(headers, start, end)
    if status == 200:
        return _whole(headers, start)
    total = _UNSATISFIED.fullmatch(headers.get("Content-Range", ""))
    size = f"; its file has {total[1]} bytes" if total else ""
    raise RangesUselessError(f"the server answers HTTP {status} to a request from byte {start}{size}")


def _part(headers: Mapping[str, str], start: int, end: int) -> Body:
    shown = headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(shown)
    if match is None:
        raise RangesUselessError(f"the server answers with the Content-Range {shown[:80]!r}")
    first, last, total = (int(match[index]) for index in (1, 2, 3))
    if first != start or not first <= last < min(end, total) or last >= MAX_BLOB_BYTES:
        raise RangesUselessError(f"the server answers with {shown!r} to a request from byte {start}")
    return Body(first, last + 1, total)


def _whole(headers: Mapping[str, str], start: int) -> Body:
    if start:
        raise RangesUselessError("the server ignores ranges", ignored=True)
    length = headers.get("Content-Length", "")
    total = int(length) if _LENGTH.fullmatch(length) else None
    return Body(0, MAX_BLOB_BYTES if total is None else total, total)


def strong_etag(headers: Mapping[str, str]) -> str:
    """The ETag if it promises equal bytes, else ""."""
    tag = headers.get("ETag", "")
    return tag if _STRONG.fullmatch(tag) else ""


def check_magic(kind: str, data: bytes, headers: Mapping[str, str]) -> None:
    """Refuse early what is no GGUF file: a login page should not cost a download of 40 GB. Raises NotGGUFError."""
    if kind in GGUF_KINDS and len(data) >= len(MAGIC) and not data.startswith(MAGIC):
        content_type = headers.get("Content-Type", "no Content-Type")
        raise NotGGUFError(data[:8], f" (the server sent {plain(content_type[:60])})")
