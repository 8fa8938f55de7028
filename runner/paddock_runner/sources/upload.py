"""Send one blob into an upload that a registry opened: by Ollama's redirects, in chunks, or whole.

Called by `push_ollama`. The answer to the first part tells which: after a 307 parts go to signed addresses, several at
a time; after a 202 they are taken one by one, as in the distribution spec; after a refusal only a whole body is.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aiohttp import ClientResponse

from paddock_runner.core.digest import Digest
from paddock_runner.sources.errors import NetworkError
from paddock_runner.sources.messages import address_of
from paddock_runner.sources.transport import Transport
from paddock_runner.store.files import open_regular, os_errors

PARTS = 16
MIN_PART_BYTES = 100_000_000
MAX_PART_BYTES = 1_000_000_000
PARALLEL = 4
ATTEMPTS = 5
PAUSE_SECONDS = 1.0
STALL_SECONDS = 60.0
CHUNK_BYTES = 1 << 20
MAX_ANSWER_BYTES = 64 * 1024
TAKEN = (200, 201, 202, 204)
_REDIRECT = 307
_LOST_PLACE = 416
_NO_CHUNKS = (400, 404, 405, 411, 415, 416, 501)
_BYTES = {"Content-Type": "application/octet-stream"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """`size` bytes from `offset` on, the `number`th piece of a blob."""

    number: int
    offset: int
    size: int


def parts_of(size: int, smallest: int = MIN_PART_BYTES) -> list[Part]:
    """How a blob of `size` bytes is cut, as Ollama does: 16 parts of 100 MB to 1 GB; none for an empty one."""
    step = min(max(size // PARTS, smallest), MAX_PART_BYTES)
    return [Part(number, at, min(step, size - at)) for number, at in enumerate(range(0, size, step))]


@dataclass(frozen=True, slots=True)
class _Reply:
    """`target` takes the bytes of a redirected part; `following` is where the upload goes on; `taken` bytes so far."""

    status: int
    target: str
    following: str
    taken: int | None


@dataclass(slots=True)
class Upload:
    """One blob of `size` bytes at `path`. `begin` opens another upload; `tell` gets bytes sent."""

    transport: Transport
    path: Path
    digest: Digest
    size: int
    begin: Callable[[], Awaitable[str]]
    tell: Callable[[int], None]
    smallest: int = MIN_PART_BYTES
    pause_seconds: float = PAUSE_SECONDS
    _handle: int = -1
    _sent: dict[int, int] = field(default_factory=dict)
    _sums: dict[int, bytes] = field(default_factory=dict)

    async def run(self, location: str) -> None:
        """Send all bytes to the upload at `location` and make them a blob of the registry.

        Raises NetworkError, UnauthorizedError, NotFoundError (the registry forgot the upload), CacheUnusableError.
        """
        self._handle = open_regular(self.path)
        try:
            await self._run(location)
        finally:
            os.close(self._handle)

    async def _run(self, location: str) -> None:
        parts = parts_of(self.size, self.smallest)
        if not parts:
            await self._commit(location)
            return
        first = await self._patiently(lambda: self._patch(location, parts[0], _NO_CHUNKS))
        if first.status == _REDIRECT:
            await self._redirected(parts, first)
        elif first.status in TAKEN:
            await self._in_chunks(parts, first)
        else:
            await self._patiently(self._whole)

    async def _redirected(self, parts: list[Part], first: _Reply) -> None:
        """Ollama's way: each part is announced, and its bytes go where the registry says."""
        gate = asyncio.Semaphore(PARALLEL)
        reply = first
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    await gate.acquire()
                    if part.number:
                        reply = await self._announce(reply.following, part)
                    group.create_task(self._put(reply.target, part, gate))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        md5 = hashlib.md5(b"".join(self._sums[part.number] for part in parts), usedforsecurity=False)
        await self._commit(reply.following, f"&etag={md5.hexdigest()}-{len(parts)}")

    async def _announce(self, location: str, part: Part) -> _Reply:
        reply = await self._patiently(lambda: self._patch(location, part, ()))
        if reply.status != _REDIRECT:
            raise NetworkError("the registry redirects some parts of an upload and not others", retryable=False)
        return reply

    async def _put(self, url: str, part: Part, gate: asyncio.Semaphore) -> None:
        async def attempt() -> None:
            async with self._sending("PUT", url, part, TAKEN):
                pass

        try:
            await self._patiently(attempt)
        finally:
            gate.release()

    async def _in_chunks(self, parts: list[Part], first: _Reply) -> None:
        """The distribution spec's way: one part after the other, going on where the registry says it is."""
        step, left = parts[0].size, ATTEMPTS
        taken, location = first.taken or step, first.following
        while taken < self.size:
            part = Part(taken // step, taken, min(step, self.size - taken))
            try:
                reply = await self._patch(location, part, (_LOST_PLACE,))
                if reply.status in TAKEN:
                    taken, location, left = reply.taken or taken + part.size, reply.following, ATTEMPTS
                    continue
            except NetworkError as error:
                if not error.retryable:
                    raise
            left -= 1
            if left == 0:
                raise NetworkError(f"the registry did not take the bytes of {self.digest.short} from {taken} on")
            await asyncio.sleep(self.pause_seconds)
            taken, location = await self._place(location)
        await self._commit(location)

    async def _place(self, location: str) -> tuple[int, str]:
        """How many bytes the registry has, and where the upload goes on."""
        answer = await self.transport.read(location, limit=MAX_ANSWER_BYTES, ok=TAKEN)
        following = address_of(location, answer.headers.get("Location", location))
        return _taken(answer.headers.get("Range", "")) or 0, following

    async def _whole(self) -> None:
        url = _with_digest(await self.begin(), self.digest)
        async with self._sending("PUT", url, Part(0, 0, self.size), TAKEN):
            pass

    async def _commit(self, location: str, more: str = "") -> None:
        url = _with_digest(location, self.digest) + more
        headers = {**_BYTES, "Content-Length": "0"}
        await self.transport.read(url, limit=MAX_ANSWER_BYTES, method="PUT", headers=headers, data=b"", ok=TAKEN)

    async def _patch(self, location: str, part: Part, refusals: tuple[int, ...]) -> _Reply:
        headers = {"Content-Range": f"{part.offset}-{part.offset + part.size - 1}", "X-Redirect-Uploads": "1"}
        async with self._sending("PATCH", location, part, (*TAKEN, _REDIRECT, *refusals), **headers) as response:
            target = address_of(location, response.headers.get("Location", location))
            following = response.headers.get("Docker-Upload-Location", target)
            taken = _taken(response.headers.get("Range", ""))
            return _Reply(response.status, target, address_of(location, following), taken)

    @asynccontextmanager
    async def _sending(
        self, method: str, url: str, part: Part, ok: tuple[int, ...], **headers: str
    ) -> AsyncIterator[ClientResponse]:
        """Send the bytes of `part`; as long as they go out, an answer may take its time."""
        more = {**_BYTES, "Content-Length": str(part.size), **headers}
        try:
            async with asyncio.timeout(STALL_SECONDS) as limit:
                body = self._bytes(part, limit)
                async with self.transport.open(url, method=method, headers=more, data=body, ok=ok) as response:
                    yield response
        except TimeoutError:
            raise NetworkError(f"the registry took no bytes for {STALL_SECONDS:g} s") from None

    async def _bytes(self, part: Part, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
        md5, done = hashlib.md5(usedforsecurity=False), 0
        clock = asyncio.get_running_loop().time
        while done < part.size:
            length = min(CHUNK_BYTES, part.size - done)
            with os_errors("reading", self.path):
                piece = await asyncio.to_thread(os.pread, self._handle, length, part.offset + done)
            if not piece:
                raise NetworkError(f"{self.path.name} became shorter while it was sent", retryable=False)
            md5.update(piece)
            yield piece
            if not limit.expired():
                limit.reschedule(clock() + STALL_SECONDS)
            done += len(piece)
            self._sent[part.number] = done
            self.tell(sum(self._sent.values()))
        self._sums[part.number] = md5.digest()

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again after what may pass, a few times and ever later."""
        for number in range(ATTEMPTS - 1):
            try:
                return await attempt()
            except NetworkError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(self.pause_seconds * 2**number)
        return await attempt()


def _taken(header: str) -> int | None:
    """The bytes that a registry has by its header `Range: 0-LAST`; None where it does not tell."""
    first, _, last = header.removeprefix("bytes=").partition("-")
    # Some say 0-0 of an empty upload.
    return int(last) + 1 if first == "0" and last.isdecimal() and len(last) < 18 and last != "0" else None


def _with_digest(location: str, digest: Digest) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"
