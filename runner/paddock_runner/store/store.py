"""The model folder: Ollama's layout, read as it is and written so that no kill or full disk leaves a lie behind.

The one class that commands, sources and the runner's front use: names and digests in, verified files out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import Layer, Manifest
from paddock_runner.core.names import ModelName
from paddock_runner.store.blobs import PARTIAL_SECONDS, Blob, Blobs, Progress
from paddock_runner.store.errors import (
    CacheUnusableError,
    DigestMismatchError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
)
from paddock_runner.store.files import open_regular, os_errors, remove_anything
from paddock_runner.store.locks import LockTimeoutError, file_lock, file_lock_async, remove_free
from paddock_runner.store.manifests import Manifests, StoredManifest, pin_name
from paddock_runner.store.partial import PartialBlob, partial_name
from paddock_runner.store.writer import BlobWriter, Check, Draft

WRITE_LOCK_SECONDS = 600.0
DELETE_LOCK_SECONDS = 60.0
COLLECT_LOCK_SECONDS = 300.0
DIGEST_LOCK_SECONDS = 24 * 3600.0
WORKING = "convert-"


class Store:
    """A model folder at `path` (bytes of models under `blobs/`, names under `manifests/`).

    With `read_only` nothing is ever written and writing methods raise ReadOnlyError. All methods may raise
    CacheUnusableError.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        if path.exists() and not path.is_dir():
            raise CacheUnusableError(f"{path} is not a folder")
        self.path = path
        self.read_only = read_only
        self._own = path / ".paddock"
        self._blobs = Blobs(path / "blobs", self._own, read_only)
        self._manifests = Manifests(path / "manifests", self._own / "tmp")

    def _require_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(f"the model folder {self.path} is opened read-only")

    def writing(self) -> AbstractContextManager[None]:
        """Hold while writing blobs and then their manifest: no delete removes these blobs in between."""
        self._require_writable()
        return file_lock(self._own / "locks" / "store.lock", shared=True, timeout=WRITE_LOCK_SECONDS)

    def collecting(self) -> AbstractContextManager[None]:
        """Hold while unreferenced blobs are looked for and removed: nobody is `writing` meanwhile."""
        self._require_writable()
        return file_lock(self._own / "locks" / "store.lock", timeout=COLLECT_LOCK_SECONDS)

    def digest_lock(self, digest: Digest, timeout: float = DIGEST_LOCK_SECONDS) -> AbstractContextManager[None]:
        """One process at a time fetches `digest`; a dead owner's lock is free. Raises LockTimeoutError."""
        self._require_writable()
        return file_lock(self._own / "locks" / f"{digest.hex}.lock", timeout=timeout)

    def fetching(self, digest: Digest, waiting: Callable[[], object]) -> AbstractAsyncContextManager[None]:
        """The lock of `digest_lock` for use on an event loop; `waiting` is called while another process has it."""
        self._require_writable()
        path = self._own / "locks" / f"{digest.hex}.lock"
        return file_lock_async(path, timeout=DIGEST_LOCK_SECONDS, waiting=waiting)

    def blob_path(self, digest: Digest) -> Path:
        """The path of a blob, whether it exists or not."""
        return self._blobs.path(digest)

    def has_verified(self, digest: Digest) -> bool:
        """Whether the blob is present and known to be intact, without reading its bytes."""
        return self._blobs.is_verified(digest)

    def verify_blob(self, digest: Digest, progress: Progress | None = None) -> int:
        """Hash the blob unless its marker fits; returns its size. Raises NotFoundError, DigestMismatchError."""
        return self._blobs.verify(digest, progress)

    def write_blob(
        self,
        source: BinaryIO | Path,
        expected_digest: Digest | None = None,
        expected_size: int | None = None,
        check: Check | None = None,
        progress: Progress | None = None,
    ) -> Blob:
        """Copy a file or a stream (to its end) into the store, all or nothing.

        `check` sees the complete bytes before they get their name and raises to refuse them. Raises
        DigestMismatchError, SizeMismatchError, NoSpaceError, NotFoundError (no such file) and what `check` raises.
        """
        self._require_writable()
        if not isinstance(source, Path):
            return self._blobs.write(source, expected_digest, expected_size, check, progress)
        handle = open_regular(source, follow=True)
        with os_errors("reading", source), os.fdopen(handle, "rb") as stream:
            size = expected_size if expected_size is not None else os.fstat(handle).st_size
            return self._blobs.write(stream, expected_digest, size, check, progress)

    def resumable(self, digest: Digest, size: int | None = None) -> PartialBlob:
        """A download of `digest` in pieces, which begins with those that an earlier one left. End it with `commit`."""
        self._require_writable()
        return PartialBlob(self.path / "blobs", digest, size)

    def partial_path(self, digest: Digest) -> Path:
        """Where the bytes of a download that is under way are."""
        return self.path / "blobs" / partial_name(digest)

    def incoming(self, digest: Digest | None, size: int | None) -> BlobWriter:
        """A writer for bytes that come from the first to the last; nothing stays if it ends without a `commit`."""
        self._require_writable()
        return BlobWriter(self.path / "blobs", digest, size)

    def commit(self, writer: Draft, check: Check | None = None) -> Blob:
        """Check and publish what a writer holds."""
        return self._blobs.commit(writer, check)

    def working_folder(self, key: Digest) -> Path:
        """Where who holds the lock of `key` may put what a kill makes worthless."""
        return self._own / "tmp" / f"{WORKING}{key.hex}"

    def working_folders(self) -> list[Path]:
        """Every working folder that is there, in use or left behind."""
        return sorted((self._own / "tmp").glob(f"{WORKING}*"))

    def remove_free_working_folders(self) -> None:
        """Remove the working folders whose lock nobody holds; called while `collecting`."""
        self._require_writable()
        for path in self.working_folders():
            with (
                contextlib.suppress(InvalidDigestError, LockTimeoutError),
                self.digest_lock(Digest(path.name.removeprefix(WORKING)), 0),
                os_errors("deleting", path),
            ):
                remove_anything(path)

    def remove_free_locks(self) -> None:
        """Remove the lock files of digests that nobody holds; called while `collecting`."""
        self._require_writable()
        remove_free(self._own / "locks", "store.lock")

    def sweep(self, partial_seconds: float = PARTIAL_SECONDS) -> int:
        """Remove leftovers of writers that died more than an hour ago (partial downloads: `partial_seconds`)."""
        self._require_writable()
        return self._blobs.sweep(partial_seconds)

    def marks(self, manifest: Manifest) -> tuple[object, ...]:
        """Something that differs once any blob of `manifest` is replaced, added or removed. Reads no bytes."""
        return tuple(self._blobs.marks(layer.digest) for layer in manifest.blobs)

    def manifest(self, name: ModelName) -> StoredManifest:
        """The manifest of a name. Raises NotFoundError."""
        return self._manifests.read(name)

    def write_manifest(self, name: ModelName, data: bytes) -> StoredManifest:
        """Write (or replace) the manifest of a name atomically. Raises InvalidManifestError."""
        self._require_writable()
        return self._manifests.write(name, data)

    def manifest_by_digest(self, digest: Digest) -> StoredManifest:
        """The manifest whose bytes hash to `digest`: its pin first, then any name. Raises NotFoundError."""
        with contextlib.suppress(StoreError):
            pinned = self._manifests.read(pin_name(digest))
            if pinned.digest == digest:
                return pinned
        for found in self._manifests.all():
            if isinstance(found, StoredManifest) and found.digest == digest:
                return found
        raise NotFoundError(f"no manifest with the digest {digest} is in the model folder")

    def require_blobs(self, layers: Iterable[Layer]) -> None:
        """Raise NotFoundError unless each of these blobs is there. Reads no bytes."""
        for layer in layers:
            self._blobs.status(layer.digest)

    def pin(self, digest: Digest, data: bytes) -> None:
        """Give the manifest `data` a root of its own, so that no later delete removes its blobs.

        Raises DigestMismatchError if `data` does not hash to `digest`.
        """
        self._require_writable()
        if Digest.of(data) != digest:
            raise DigestMismatchError("the manifest", digest, Digest.of(data))
        with contextlib.suppress(StoreError):
            if self._manifests.read(pin_name(digest)).digest == digest:
                # A collector goes by age: what was just asked for again is young.
                self._manifests.touch(pin_name(digest))
                return
        self._manifests.write(pin_name(digest), data)

    def unpin(self, digest: Digest) -> None:
        """Take the root of `digest` away, if it has one; its blobs go with the next delete that finds them unused."""
        self._require_writable()
        with contextlib.suppress(NotFoundError):
            self._manifests.remove(pin_name(digest))

    def remove_root(self, name: ModelName) -> None:
        """Remove a name and nothing else; called while `collecting`. Raises NotFoundError."""
        self._require_writable()
        self._manifests.remove(name)

    def remove_blob(self, digest: Digest) -> bool:
        """Remove a blob that nothing references, with its marker; called while `collecting`. False if it was gone."""
        self._require_writable()
        return self._blobs.remove(digest)

    def remove_stray_markers(self) -> None:
        """Remove the markers of blobs that are gone."""
        self._require_writable()
        self._blobs.remove_stray_markers()

    def list(self) -> tuple[StoredManifest, ...]:
        """All models, newest first. Pins are hidden; a corrupt manifest is logged and skipped."""
        found = [item for item in self._manifests.all() if isinstance(item, StoredManifest) and not item.is_pin]
        return tuple(sorted(found, key=lambda item: (-item.modified_at, str(item.name))))

    def copy(self, source: ModelName, target: ModelName) -> StoredManifest:
        """Give the model `source` a second name. Raises NotFoundError."""
        with self.writing():
            return self._manifests.write(target, self._manifests.read(source).data)

    def delete(self, name: ModelName) -> tuple[Digest, ...]:
        """Remove a name and the blobs that no manifest references any more; returns those blobs.

        Every blob that another name or a pin references stays. If any manifest of the folder is corrupt, no blob is
        removed, since what it references is unknown. Raises NotFoundError.
        """
        self._require_writable()
        with file_lock(self._own / "locks" / "store.lock", timeout=DELETE_LOCK_SECONDS):
            try:
                candidates = {layer.digest for layer in self._manifests.read(name).manifest.blobs}
            except CacheUnusableError:
                candidates = set()
            self._manifests.remove(name)
            unused = sorted(candidates - self._referenced(candidates))
            return tuple(digest for digest in unused if self._blobs.remove(digest))

    def _referenced(self, candidates: set[Digest]) -> set[Digest]:
        found: set[Digest] = set()
        for item in self._manifests.all():
            if not isinstance(item, StoredManifest):
                return candidates
            found.update(layer.digest for layer in item.manifest.blobs)
        return found
