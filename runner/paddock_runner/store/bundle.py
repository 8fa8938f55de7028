"""Air-gap bundles, the way out: models of a store as one tar stream in the OCI image layout.

Called by `commands.bundle`; the way in is `store.bundle_import`. A bundle is `oci-layout`, `index.json` (a descriptor
per model, with its full name), the manifests and then all other blobs, each once. The same models always give the same
bytes, and every byte is hashed while it passes. `read_blob` also serves `sources.push_oci`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import Layer
from paddock_runner.core.names import ModelName
from paddock_runner.store.bundle_layout import INDEX, LAYOUT, blob_path, index_file, layout_file
from paddock_runner.store.errors import DigestMismatchError, ReadOnlyError, SizeMismatchError
from paddock_runner.store.files import open_regular, os_errors
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.store import Store
from paddock_runner.store.tar_stream import end, header, padding
from paddock_runner.store.writer import CHUNK_BYTES

Write = Callable[[bytes], object]


def export(
    store: Store, names: Sequence[ModelName], write: Write, progress: LayerProgress
) -> tuple[StoredManifest, ...]:
    """Write the models as one bundle; returns their manifests, by name.

    `write` takes the bytes in order. Raises NotFoundError (a name or a blob), DigestMismatchError if a blob is not what
    its name says (the bundle is then incomplete), CacheUnusableError.
    """
    with _reading(store):
        found = {stored.name: stored for stored in (store.manifest(name) for name in names)}
        models = tuple(sorted(found.values(), key=lambda stored: stored.name.full))
        store.require_blobs(layer for stored in models for layer in stored.manifest.blobs)
        _Output(write).bundle(store, models, progress)
    return models


def _reading(store: Store) -> contextlib.ExitStack:
    """Nothing is deleted meanwhile; on a read-only folder nobody here could."""
    stack = contextlib.ExitStack()
    with contextlib.suppress(ReadOnlyError):
        stack.enter_context(store.writing())
    return stack


@dataclass(slots=True)
class _Output:
    write: Write
    written: int = 0

    def bundle(self, store: Store, models: Sequence[StoredManifest], progress: LayerProgress) -> None:
        self._file(LAYOUT, layout_file())
        self._file(INDEX, index_file(models))
        manifests = {stored.digest: stored.data for stored in models}
        for digest, data in sorted(manifests.items()):
            self._file(blob_path(digest), data)
        blobs = {layer.digest: layer for stored in models for layer in stored.manifest.blobs}
        for digest in sorted(blobs.keys() - manifests.keys()):
            self._blob(store, blobs[digest], progress)
        self._put(end(self.written))

    def _put(self, data: bytes) -> None:
        self.write(data)
        self.written += len(data)

    def _file(self, name: str, data: bytes) -> None:
        self._put(header(name, len(data)) + data + padding(len(data)))

    def _blob(self, store: Store, layer: Layer, progress: LayerProgress) -> None:
        self._put(header(blob_path(layer.digest), layer.size))
        for chunk in read_blob(store, layer, progress):
            self._put(chunk)
        self._put(padding(layer.size))


def read_blob(store: Store, layer: Layer, progress: LayerProgress) -> Iterator[bytes]:
    """The bytes of a stored blob, hashed as they pass.

    Raises NotFoundError, SizeMismatchError and DigestMismatchError, the last only after the last byte.
    """
    path, hasher, done = store.blob_path(layer.digest), hashlib.sha256(), 0
    handle = open_regular(path)
    with os_errors("reading", path), os.fdopen(handle, "rb", buffering=0) as stream:
        size = os.fstat(handle).st_size
        if size != layer.size:
            raise SizeMismatchError(f"the blob {layer.digest}", layer.size, size)
        while done < size and (chunk := stream.read(min(CHUNK_BYTES, size - done))):
            hasher.update(chunk)
            done += len(chunk)
            progress(layer.digest, done, size)
            yield chunk
    actual = Digest(hasher.hexdigest())
    if actual != layer.digest:
        raise DigestMismatchError(f"the blob {path.name}", layer.digest, actual)
