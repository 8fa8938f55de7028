"""A GGUF file by URL and SHA-256: resumed, bounded and verified download, then a manifest around it.

Called through `sources.select`. No credentials are ever sent; redirects are followed by hand so that each hop is
judged.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MAX_BLOB_BYTES, layer
from paddock_runner.core.names import HTTP_HOST, ModelName
from paddock_runner.sources.addresses import CheckedResolver, HostRules
from paddock_runner.sources.errors import NetworkError, SourceUnsupportedError, UnauthorizedError
from paddock_runner.store.create import write_model
from paddock_runner.store.errors import DigestMismatchError, NotFoundError, NotGGUFError, SizeMismatchError
from paddock_runner.store.files import require_space
from paddock_runner.store.gguf import check_gguf, read_gguf
from paddock_runner.store.gguf_tables import MAGIC
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.store import Store
from paddock_runner.store.writer import CHUNK_BYTES, BlobWriter

MAX_REDIRECTS = 5
_TRIES = 2
_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of a download: seconds and bytes. Slower than `minimum_rate` for `stall_seconds` is a stall."""

    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    minimum_rate: int = 1024
    maximum_bytes: int = MAX_BLOB_BYTES
    attempts: int = 4
    pause_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class HttpSource:
    """`url` and the SHA-256 that its bytes must have."""

    url: URL
    sha256: Digest
    rules: HostRules = field(default_factory=HostRules.from_environment)
    limits: HttpLimits = HttpLimits()

    @classmethod
    def parse(cls, spec: Mapping[str, object]) -> HttpSource:
        """Read `source.http`. Raises SourceUnsupportedError that names the field."""
        url, sha256 = spec.get("url"), spec.get("sha256")
        match = _HEX.fullmatch(sha256) if isinstance(sha256, str) else None
        if match is None:
            raise SourceUnsupportedError("source.http.sha256 must be 64 lower-case hex digits")
        try:
            return cls(URL(str(url)), Digest(match[1]))
        except ValueError:
            raise SourceUnsupportedError("source.http.url is not a URL") from None

    @property
    def name(self) -> ModelName:
        return ModelName(host=HTTP_HOST, namespace="sha256", model=self.sha256.hex)

    @property
    def digest(self) -> Digest | None:
        return None

    def fetch(self, store: Store, progress: LayerProgress) -> StoredManifest:
        """Download unless the bytes are there, then write the manifest `http.paddock.dev/sha256/<hex>:latest`.

        Raises ForbiddenAddressError, InsecureSourceError, NetworkError, UnauthorizedError, NotFoundError, NotGGUFError,
        TruncatedGGUFError, InvalidGGUFError, DigestMismatchError, SizeMismatchError, NoSpaceError, CacheUnusableError.
        """
        self.rules.check(self.url)
        if (held := self._held(store)) is not None:
            return held
        with store.digest_lock(self.sha256):
            for _ in range(_TRIES):
                if not store.has_verified(self.sha256):
                    asyncio.run(Download(self, store, progress).run())
                if (stored := self._named(store)) is not None:
                    return stored
        raise NotFoundError(f"the blob {self.sha256} disappeared while it was given its name")

    def _named(self, store: Store) -> StoredManifest | None:
        """Write the manifest; None if a collector removed the bytes, which nobody referenced, a moment ago."""
        with store.writing():
            try:
                size = store.verify_blob(self.sha256)
            except NotFoundError:
                return None
            header = read_gguf(store.blob_path(self.sha256))
            return write_model(store, self.name, layer("model", self.sha256, size), header)

    def _held(self, store: Store) -> StoredManifest | None:
        """The manifest of an earlier fetch, so that a read-only cache serves too."""
        try:
            stored = store.manifest(self.name)
        except NotFoundError:
            return None
        intact = [item.digest for item in stored.manifest.of_kind("model")] == [self.sha256]
        return stored if intact and store.has_verified(self.sha256) else None


class Download:
    """One blob over HTTP: attempts, redirects, ranges."""

    def __init__(self, source: HttpSource, store: Store, progress: LayerProgress) -> None:
        self._source = source
        self._limits = source.limits
        self._store = store
        self._progress = progress

    async def run(self) -> None:
        """Download until the bytes are published. Wrong bytes are fetched once more, from the start."""
        try:
            await self._attempts()
        except (DigestMismatchError, SizeMismatchError):
            await self._attempts()

    async def _attempts(self) -> None:
        with self._store.partial(self._source.sha256) as writer:
            timeout = aiohttp.ClientTimeout(
                total=None, connect=self._limits.connect_seconds, sock_read=self._limits.stall_seconds
            )
            connector = aiohttp.TCPConnector(resolver=CheckedResolver(self._source.rules), use_dns_cache=False, limit=1)
            async with aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=["User-Agent"],
            ) as session:
                await self._until_complete(session, writer)
            self._store.commit(writer, check_gguf)

    async def _until_complete(self, session: aiohttp.ClientSession, writer: BlobWriter) -> None:
        left = self._limits.attempts
        while True:
            before = writer.written
            try:
                await self._once(session, writer)
                return
            except NetworkError as error:
                # An attempt that brought new bytes does not count: a flaky line makes progress.
                left = self._limits.attempts if writer.written > before else left - 1
                if not error.retryable or left <= 0:
                    raise
            await asyncio.sleep(self._limits.pause_seconds)

    async def _once(self, session: aiohttp.ClientSession, writer: BlobWriter) -> None:
        try:
            response = await self._open(session, writer.written)
            async with response:
                total = self._accept(response, writer)
                if total is not None:
                    await self._copy(response, writer, total)
        except TimeoutError:
            raise NetworkError(f"{self._source.url.host} sent nothing for {self._limits.stall_seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"{self._source.url.host}: {type(error).__name__}: {error}"[:500]) from None

    async def _open(self, session: aiohttp.ClientSession, offset: int) -> aiohttp.ClientResponse:
        url = self._source.url
        headers = {"Accept-Encoding": "identity", "User-Agent": "paddock"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        for _ in range(MAX_REDIRECTS + 1):
            self._source.rules.check(url)
            response = await session.get(url, headers=headers, allow_redirects=False)
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            try:
                url = url.join(URL(location))
            except ValueError:
                raise NetworkError("the server redirects to something that is no URL", retryable=False) from None
        raise NetworkError(f"more than {MAX_REDIRECTS} redirects", retryable=False)

    def _accept(self, response: aiohttp.ClientResponse, writer: BlobWriter) -> int | None:
        """Judge status and headers; returns the blob's total bytes (0 = unknown), None when nothing is left to read."""
        _raise_for_status(response, self._source.url.host)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise NetworkError(f"the server answers with Content-Encoding {encoding[:40]!r}", retryable=False)
        if response.status == 416:
            complete = response.headers.get("Content-Range") == f"bytes */{writer.written}"
            if complete and writer.written:
                return None
            writer.restart()
            raise NetworkError("the server does not have the range that is missing; starting again")
        if response.status == 206:
            return self._resume(response, writer)
        if writer.written:
            writer.restart()
        total = response.content_length or 0
        self._check_total(total)
        return total

    def _resume(self, response: aiohttp.ClientResponse, writer: BlobWriter) -> int:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != writer.written or int(match[2]) + 1 != int(match[3]):
            writer.restart()
            raise NetworkError("the server answered with another range than the one asked for; starting again")
        self._check_total(int(match[3]))
        return int(match[3])

    def _check_total(self, total: int) -> None:
        if total > self._limits.maximum_bytes:
            raise NetworkError(
                f"the file has {total} bytes, the limit is {self._limits.maximum_bytes}", retryable=False
            )

    async def _copy(self, response: aiohttp.ClientResponse, writer: BlobWriter, total: int) -> None:
        require_space(writer.path.parent, max(total - writer.written, 0), str(self._source.url.host))
        window, received = time.monotonic(), 0
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            if writer.written == 0:
                _check_magic(chunk, response)
            if writer.written + len(chunk) > (total or self._limits.maximum_bytes):
                raise NetworkError("the server sends more bytes than it declared", retryable=False)
            writer.write(chunk)
            received += len(chunk)
            self._progress(self._source.sha256, writer.written, total or writer.written)
            if time.monotonic() - window > self._limits.stall_seconds:
                if received < self._limits.minimum_rate * self._limits.stall_seconds:
                    raise NetworkError(f"the transfer is slower than {self._limits.minimum_rate} bytes/s")
                window, received = time.monotonic(), 0
        if total and writer.written < total:
            raise NetworkError(f"the connection ended after {writer.written} of {total} bytes")


MAX_SHOWN_PATH = 512
"""The query is never shown: it may hold a signature."""


def _raise_for_status(response: aiohttp.ClientResponse, host: str | None) -> None:
    status = response.status
    if status in (200, 206, 416):
        return
    if status in (401, 403):
        raise UnauthorizedError(f"{host} refuses the download (HTTP {status})")
    if status in (404, 410):
        raise NotFoundError(f"{host} does not have {response.url.path[:MAX_SHOWN_PATH]} (HTTP {status})")
    raise NetworkError(f"{host} answers HTTP {status}", retryable=status in (408, 425, 429) or status >= 500)


def _check_magic(chunk: bytes, response: aiohttp.ClientResponse) -> None:
    """Refuse early what is no GGUF file: a login page should not cost a 40 GB download."""
    if len(chunk) >= len(MAGIC) and not chunk.startswith(MAGIC):
        raise NotGGUFError(chunk[:8], f" (the server sent {response.content_type[:60]})")
