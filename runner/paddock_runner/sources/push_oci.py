"""Push a stored model to a registry of the distribution spec, as it is: pulled again, it has the same digest.

Called by `commands.push`. Blobs that the repository has are not sent, blobs of another repository of the same registry
are mounted, the rest is streamed from the disk in one request each, or in pieces where the registry takes no large
ones. The manifest goes last and is read back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Layer
from paddock_runner.core.names import ModelName
from paddock_runner.core.oci import MANIFEST_TYPES
from paddock_runner.core.oci_reference import InvalidReferenceError, OciReference, repository_of
from paddock_runner.sources.errors import NetworkError, SourceUnsupportedError
from paddock_runner.sources.messages import address_of
from paddock_runner.sources.transport import Transport
from paddock_runner.sources.upload import MAX_ANSWER_BYTES, Upload
from paddock_runner.store.bundle import read_blob
from paddock_runner.store.errors import DigestMismatchError, NotFoundError, SizeMismatchError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.store import Store

ATTEMPTS = 3
PIECE_BYTES = 8 << 20
"""Small enough for the limits that proxies in front of registries have."""
PAUSE_SECONDS = 1.0
_NO_LARGE_BODY = (405, 411, 413, 501)
_TAKEN = (201, 204)


async def push(store: Store, name: ModelName, reference: str, transport: Transport, progress: LayerProgress) -> str:
    """Send the stored model `name` to `reference`; returns the digest that it has there and here.

    Raises NotFoundError (no such model here, no such registry there), SourceUnsupportedError (the reference),
    DigestMismatchError and SizeMismatchError (a blob is damaged, or the registry keeps something else),
    UnauthorizedError, NetworkError.
    """
    try:
        target = OciReference.parse(reference)
    except InvalidReferenceError as error:
        raise SourceUnsupportedError(f"the reference {reference[:200]!r}: {error}") from None
    stored = await asyncio.to_thread(store.manifest, name)
    if target.digest not in (None, stored.digest):
        raise DigestMismatchError(f"the manifest of {name}", target.digest, stored.digest)
    work = _Push(store, target, transport, progress)
    for blob in {layer.digest: layer for layer in stored.manifest.blobs}.values():
        await work.blob(blob)
    await work.manifest(stored)
    return str(stored.digest)


@dataclass(frozen=True, slots=True)
class _Push:
    store: Store
    target: OciReference
    transport: Transport
    progress: LayerProgress

    async def blob(self, blob: Layer) -> None:
        """Make sure that the repository has the blob."""
        size = await asyncio.to_thread(self.store.verify_blob, blob.digest)
        if size != blob.size:
            raise SizeMismatchError(f"the blob {blob.digest}", blob.size, size)
        if not await self._is_there(blob.digest):
            await _patiently(lambda: self._send(blob))
        self.progress(blob.digest, size, size)

    async def _is_there(self, digest: Digest) -> bool:
        url = self.target.url(f"blobs/{digest}")
        answer = await self.transport.read(url, limit=MAX_ANSWER_BYTES, method="HEAD", ok=(200, 404))
        return answer.status == 200

    async def _send(self, blob: Layer) -> None:
        location = await self._begin(await asyncio.to_thread(self._mount, blob.digest))
        if not location:
            return
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        url = f"{location}{'&' if '?' in location else '?'}digest={blob.digest}"
        ok = (*_TAKEN, *_NO_LARGE_BODY)
        async with self.transport.open(
            url, method="PUT", headers=headers, data=_Body(self.store, blob, self.progress), ok=ok
        ) as response:
            refused = response.status in _NO_LARGE_BODY
        if refused:
            await self._in_pieces(blob)

    def _mount(self, digest: Digest) -> str:
        """The query that asks for the blob of another repository of the registry, "" if none is known to have it."""
        for stored in self.store.list():
            if stored.name.host.lower() == self.target.host and digest in {
                item.digest for item in stored.manifest.blobs
            }:
                repository = repository_of(stored.name)
                if repository not in (None, self.target.repository):
                    return f"?mount={digest}&from={repository}"
        return ""

    async def _in_pieces(self, blob: Layer) -> None:
        upload = Upload(
            self.transport,
            self.store.blob_path(blob.digest),
            blob.digest,
            blob.size,
            begin=self._begin,
            tell=lambda sent: self.progress(blob.digest, sent, blob.size),
            smallest=PIECE_BYTES,
        )
        await upload.run(await self._begin())

    async def _begin(self, query: str = "") -> str:
        """Open an upload and return its address, "" if the blob was mounted instead."""
        base = self.target.url("blobs/uploads/")
        answer = await self.transport.read(base + query, limit=MAX_ANSWER_BYTES, method="POST", data=b"", ok=(201, 202))
        if query and answer.status == 201:
            return ""
        location = answer.headers.get("Location")
        if not location:
            raise NetworkError(f"{self.target.host} opened an upload without a Location", retryable=False)
        return address_of(base, location)

    async def manifest(self, stored: StoredManifest) -> None:
        """Put the manifest under the reference's tag (else its digest) and make sure that this is what is there now."""
        url = self.target.url(f"manifests/{self.target.tag or self.target.word}")
        kind = {"Content-Type": json.loads(stored.data).get("mediaType", MANIFEST_TYPE)}
        await self.transport.read(
            url, limit=MAX_ANSWER_BYTES, method="PUT", headers=kind, data=stored.data, ok=(200, *_TAKEN)
        )
        answer = await self.transport.read(url, limit=MAX_MANIFEST_BYTES, accept=", ".join(MANIFEST_TYPES))
        if Digest.of(answer.body) != stored.digest:
            raise DigestMismatchError("the manifest that the registry took", stored.digest, Digest.of(answer.body))


@dataclass(frozen=True, slots=True)
class _Body:
    """The bytes of a blob, from the start whenever they are asked for: a 401 or a redirect asks twice."""

    store: Store
    blob: Layer
    progress: LayerProgress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = read_blob(self.store, self.blob, self.progress)
        while piece := await asyncio.to_thread(next, pieces, b""):
            yield piece


async def _patiently(attempt: Callable[[], Awaitable[None]]) -> None:
    """Begin again after what may pass; each attempt is an upload of its own."""
    for number in range(ATTEMPTS - 1):
        try:
            return await attempt()
        except NetworkError as error:
            if not error.retryable:
                raise
        except NotFoundError:
            # The registry forgot the upload, for instance because it was restarted.
            pass
        await asyncio.sleep(PAUSE_SECONDS * 2**number)
    return await attempt()
