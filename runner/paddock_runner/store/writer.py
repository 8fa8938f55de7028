"""The one way a blob comes into being: temporary file, streamed hash, size, digest, check, fsync, rename, fsync.

Called by `Blobs`. A writer is a context manager; whatever is not committed at its end is removed, except a partial
download (`store.partial`), which may be continued later.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MAX_BLOB_BYTES
from paddock_runner.store.errors import CacheUnusableError, DigestMismatchError, SizeMismatchError
from paddock_runner.store.files import (
    CREATE,
    forget_cached,
    make_folder,
    os_errors,
    sync_folder,
    temporary_name,
    write_all,
)
from paddock_runner.store.locks import LockTimeoutError, is_still, try_lock

Check = Callable[[BinaryIO], None]

TEMPORARY = "tmp-"
PARTIAL = "partial-"
CHUNK_BYTES = 1 << 20


class Draft:
    """A file in `folder` that may become the blob `digest` of `size` bytes (None: not known)."""

    def __init__(self, folder: Path, name: str, digest: Digest | None, size: int | None) -> None:
        self.path = folder / name
        self._folder = folder
        self._digest = digest
        self._size = size
        self._handle = -1
        self._keep = False
        self.written = 0
        """Bytes that are hashed."""

    def _digest_now(self) -> Digest:
        raise NotImplementedError

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            # First: a collector takes blobs without that folder for a loss of all names.
            make_folder(self._folder.parent / "manifests")
            make_folder(self._folder)

    def _open(self, path: Path, flags: int) -> int:
        """Open `path` for writing under a lock, which tells a sweeper that it has a living owner."""
        with os_errors("creating", path):
            while True:
                handle = os.open(path, CREATE | flags, 0o600)
                try:
                    _require_own(path, handle)
                    if is_still(path, handle):
                        return handle
                except BaseException:
                    os.close(handle)
                    raise
                os.close(handle)

    def seal(self, check: Check | None) -> Digest:
        """Check size, digest and content, then force the bytes to disk. On a failure the bytes are forgotten."""
        actual = self._digest_now()
        keep, self._keep = self._keep, False
        if self._size is not None and self.written != self._size:
            raise SizeMismatchError("the blob", self._size, self.written)
        if self._digest is not None and actual != self._digest:
            raise DigestMismatchError("the blob", self._digest, actual)
        if check is not None:
            with open(os.dup(self._handle), "rb") as stream:
                stream.seek(0)
                check(stream)
        self._keep = keep
        with os_errors("syncing", self.path):
            os.fchmod(self._handle, 0o644)
            try:
                os.fsync(self._handle)
            except OSError:
                forget_cached(self._handle)
                raise
        return actual

    def publish(self, final: Path) -> os.stat_result:
        """Give the sealed bytes their final name; returns the facts of the published file."""
        with os_errors("publishing", final):
            self.path.rename(final)
            self._keep = True
            sync_folder(self._folder)
            return os.fstat(self._handle)

    def drop(self) -> None:
        """Remove the bytes; the store has them already."""
        self.path.unlink(missing_ok=True)
        self._keep = True


def _require_own(path: Path, handle: int) -> None:
    if not try_lock(handle):
        raise LockTimeoutError(f"another process is writing {path.name}")
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        raise CacheUnusableError(f"{path} is linked from elsewhere or no regular file; move it away")


class BlobWriter(Draft):
    """Collects the bytes of one blob from the first to the last; they are gone if it ends without a commit.

    `digest` and `size` (bytes) are what the blob must have, None when unknown.
    """

    def __init__(self, folder: Path, digest: Digest | None, size: int | None) -> None:
        super().__init__(folder, temporary_name(TEMPORARY), digest, size)
        self._hash = hashlib.sha256()

    def _digest_now(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def __enter__(self) -> Self:
        self._make_folder()
        self._handle = self._open(self.path, os.O_EXCL)
        return self

    def restart(self) -> None:
        """Forget all bytes so far."""
        with os_errors("truncating", self.path):
            os.ftruncate(self._handle, 0)
            os.lseek(self._handle, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.written = 0

    def write(self, chunk: bytes | memoryview) -> None:
        """Append `chunk`. Raises SizeMismatchError beyond the declared size, NoSpaceError, CacheUnusableError."""
        limit = self._size if self._size is not None else MAX_BLOB_BYTES
        if self.written + len(chunk) > limit:
            raise SizeMismatchError("the blob", limit, self.written + len(chunk))
        with os_errors("writing", self.path):
            write_all(self._handle, chunk)
        self._hash.update(chunk)
        self.written += len(chunk)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keep:
            self.path.unlink(missing_ok=True)
        os.close(self._handle)
