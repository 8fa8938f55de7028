"""Push a stored model to a registry of Ollama's protocol (any registry of the distribution spec takes it as well).

Called by `commands.push`. Blobs that the registry has are not sent, ones that another of its repositories has are
mounted; the manifest goes last and byte for byte, so its digest there is its digest here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MANIFEST_TYPE, OCI_MANIFEST_TYPE, Layer
from paddock_runner.core.names import ModelName, Reference
from paddock_runner.sources.errors import NetworkError
from paddock_runner.sources.messages import address_of
from paddock_runner.sources.transport import Transport
from paddock_runner.sources.upload import MAX_ANSWER_BYTES, MIN_PART_BYTES, PAUSE_SECONDS, TAKEN, Upload
from paddock_runner.store.errors import DigestMismatchError, SizeMismatchError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.store import Store

CONTENT_DIGEST = "Docker-Content-Digest"


class PushProgress(Protocol):
    """What a push tells: bytes of a blob, and words between."""

    def __call__(self, digest: Digest, completed: int, total: int) -> None: ...

    def status(self, text: str) -> None: ...


async def push(store: Store, name: ModelName, target: Reference, transport: Transport, progress: PushProgress) -> None:
    """Send the stored model `name` to `target`.

    Raises NotFoundError (no such model here, or no such registry there), DigestMismatchError (damaged, here or on the
    way; or not the digest that `target` demands), UnauthorizedError, NetworkError.
    """
    await Push(store, target, transport, progress).run(name)


@dataclass(frozen=True, slots=True)
class Push:
    """One push. `smallest` is the least size of an upload's part in bytes."""

    store: Store
    target: Reference
    transport: Transport
    progress: PushProgress
    smallest: int = MIN_PART_BYTES
    pause_seconds: float = PAUSE_SECONDS

    @property
    def _repository(self) -> str:
        name = self.target.name
        return f"{self.target.origin}/v2/{name.namespace}/{name.model}"

    async def run(self, name: ModelName) -> None:
        """See `push`."""
        self.progress.status("retrieving manifest")
        stored = await asyncio.to_thread(self.store.manifest, name)
        if self.target.digest not in (None, stored.digest):
            raise DigestMismatchError(f"the manifest of {name}", self.target.digest, stored.digest)
        for blob in {layer.digest: layer for layer in stored.manifest.blobs}.values():
            await self._blob(blob)
        self.progress.status("pushing manifest")
        await self._manifest(stored)
        self.progress.status("success")

    async def _blob(self, blob: Layer) -> None:
        size = await asyncio.to_thread(self.store.verify_blob, blob.digest)
        if size != blob.size:
            raise SizeMismatchError(f"the blob {blob.digest}", blob.size, size)
        self.progress(blob.digest, 0, size)
        if not await self._is_there(blob.digest):
            await self._send(blob)
        self.progress(blob.digest, size, size)

    async def _is_there(self, digest: Digest) -> bool:
        url = f"{self._repository}/blobs/{digest}"
        answer = await self.transport.read(url, limit=MAX_ANSWER_BYTES, method="HEAD", ok=(200, 404))
        return answer.status == 200

    async def _send(self, blob: Layer) -> None:
        location = await self._open(await asyncio.to_thread(self._mount, blob.digest))
        if location is None:
            return
        upload = Upload(
            self.transport,
            self.store.blob_path(blob.digest),
            blob.digest,
            blob.size,
            begin=self._begin,
            tell=lambda sent: self.progress(blob.digest, sent, blob.size),
            smallest=self.smallest,
            pause_seconds=self.pause_seconds,
        )
        await upload.run(location)

    def _mount(self, digest: Digest) -> str:
        """The query that asks the registry to take the blob from another of its repositories, '' if none is known."""
        host, here = self.target.name.host.lower(), self.target.name.key[1:3]
        for item in self.store.list():
            elsewhere = item.name.host.lower() == host and item.name.key[1:3] != here
            if elsewhere and any(layer.digest == digest for layer in item.manifest.blobs):
                return f"?mount={digest}&from={item.name.namespace}/{item.name.model}"
        return ""

    async def _open(self, query: str = "") -> str | None:
        """Open an upload and return its address; None if the blob was mounted."""
        base = f"{self._repository}/blobs/uploads/"
        headers, ok = {"Content-Length": "0"}, (200, 201, 202)
        answer = await self.transport.read(
            base + query, limit=MAX_ANSWER_BYTES, method="POST", headers=headers, data=b"", ok=ok
        )
        if query and answer.status == 201:
            return None
        location = answer.headers.get("Docker-Upload-Location") or answer.headers.get("Location")
        if not location:
            raise NetworkError(f"{self.target.name.host} opened an upload without a Location", retryable=False)
        return address_of(base, location)

    async def _begin(self) -> str:
        return await self._open() or ""

    async def _manifest(self, stored: StoredManifest) -> None:
        answer = await self.transport.read(
            f"{self._repository}/manifests/{self.target.name.tag}",
            limit=MAX_ANSWER_BYTES,
            method="PUT",
            headers={"Content-Type": _media_type(stored.data)},
            data=stored.data,
            ok=TAKEN,
        )
        told = answer.headers.get(CONTENT_DIGEST, "")
        if told.startswith("sha256:") and told != str(stored.digest):
            raise DigestMismatchError("the manifest that the registry took", stored.digest, told[:80])


def _media_type(data: bytes) -> str:
    return OCI_MANIFEST_TYPE if OCI_MANIFEST_TYPE.encode() in data else MANIFEST_TYPE
