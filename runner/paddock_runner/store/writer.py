"""The one way a blob comes into being: temporary file, streamed hash, size, digest, check, fsync, rename, fsync.

Called by `Blobs`. A writer is a context manager; whatever is not committed at its end is removed, except a partial
download, which may be continued later.
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
from paddock_runner.store.errors import CacheUnusableError, DigestMismatchError, NoSpaceError, SizeMismatchError
from paddock_runner.store.files import CREATE, make_folder, os_errors, sync_folder, temporary_name, write_all
from paddock_runner.store.locks import LockTimeoutError, try_lock

Check = Callable[[BinaryIO], None]

TEMPORARY = "tmp-"
PARTIAL = "partial-"
CHUNK_BYTES = 1 << 20


class BlobWriter:
    """Collects the bytes of one blob in `folder`.

    `digest` and `size` (bytes) are what the blob must have, None when unknown. `resume` keeps the bytes under a name
    made of the digest when the writer ends without a commit, and begins with those of the last time.
    """

    def __init__(self, folder: Path, digest: Digest | None, size: int | None, *, resume: bool = False) -> None:
        self._folder = folder
        self._digest = digest
        self._size = size
        self._keep = resume and digest is not None
        name = f"{PARTIAL}{digest.hex}" if digest and self._keep else temporary_name(TEMPORARY)
        self.path = folder / name
        self._hash = hashlib.sha256()
        self._handle = -1
        self.written = 0

    def __enter__(self) -> Self:
        make_folder(self._folder)
        with os_errors("creating", self.path):
            self._handle = os.open(self.path, CREATE | (0 if self._keep else os.O_EXCL), 0o600)
        try:
            self._begin()
        except BaseException:
            os.close(self._handle)
            raise
        return self

    def _begin(self) -> None:
        # The lock tells a sweeper that this file has a living owner.
        if not try_lock(self._handle):
            raise LockTimeoutError(f"another process is writing {self.path.name}")
        facts = os.fstat(self._handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise CacheUnusableError(f"{self.path} is linked from elsewhere or no regular file; move it away")
        if self._keep:
            self._hash_existing()

    def _hash_existing(self) -> None:
        with os_errors("reading", self.path):
            while chunk := os.read(self._handle, CHUNK_BYTES):
                self._hash.update(chunk)
                self.written += len(chunk)
        if self.written > (self._size if self._size is not None else MAX_BLOB_BYTES):
            self.restart()

    def restart(self) -> None:
        """Forget all bytes so far."""
        with os_errors("truncating", self.path):
            os.ftruncate(self._handle, 0)
            os.lseek(self._handle, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.written = 0

    def write(self, chunk: bytes) -> None:
        """Append `chunk`. Raises SizeMismatchError beyond the declared size, NoSpaceError, CacheUnusableError."""
        limit = self._size if self._size is not None else MAX_BLOB_BYTES
        if self.written + len(chunk) > limit:
            self._keep = False
            raise SizeMismatchError("the blob", limit, self.written + len(chunk))
        with os_errors("writing", self.path):
            write_all(self._handle, chunk)
        self._hash.update(chunk)
        self.written += len(chunk)

    def seal(self, check: Check | None) -> Digest:
        """Check size, digest and content, then force the bytes to disk. On a failure the bytes are forgotten."""
        actual = Digest(self._hash.hexdigest())
        keep, self._keep = self._keep, False
        if self._size is not None and self.written != self._size:
            raise SizeMismatchError("the blob", self._size, self.written)
        if self._digest is not None and actual != self._digest:
            raise DigestMismatchError("the blob", self._digest, actual)
        if check is not None:
            with open(os.dup(self._handle), "rb") as stream:
                check(stream)
        with os_errors("syncing", self.path):
            os.fchmod(self._handle, 0o644)
            os.fsync(self._handle)
        self._keep = keep
        return actual

    def publish(self, final: Path) -> os.stat_result:
        """Give the sealed bytes their final name; returns the facts of the published file."""
        with os_errors("publishing", final):
            self.path.rename(final)
            self._keep = True
            sync_folder(self._folder)
            return os.fstat(self._handle)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A full disk is helped by giving the space back, and a partial file there would only fail again.
        if not self._keep or not self.written or isinstance(error, NoSpaceError):
            self.path.unlink(missing_ok=True)
        os.close(self._handle)
