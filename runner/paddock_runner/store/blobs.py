"""Blobs by digest: paths, verification with markers, and writing through the one verified path.

Called by `Store`. A marker says "these bytes were hashed and equal" and is bound to device, inode, size and times, so
that a changed file is hashed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from paddock_runner.core.digest import Digest
from paddock_runner.store.errors import (
    CacheUnusableError,
    DigestMismatchError,
    NotFoundError,
    StoreError,
    from_os_error,
)
from paddock_runner.store.files import (
    atomic_write,
    open_regular,
    os_errors,
    read_bounded,
    remove_anything,
    require_space,
)
from paddock_runner.store.locks import try_lock
from paddock_runner.store.writer import CHUNK_BYTES, PARTIAL, TEMPORARY, BlobWriter, Check, Draft

TEMPORARY_SECONDS = 3600.0
PARTIAL_SECONDS = 7 * 24 * 3600.0
_MAX_SWEPT = 10_000

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob in the store; `created` is False when it was there already."""

    digest: Digest
    size: int
    created: bool


def _facts(status: os.stat_result) -> dict[str, int]:
    return {
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


class Blobs:
    """The folder `blobs/` of a model folder; `own` is Paddock's own folder beside it."""

    def __init__(self, folder: Path, own: Path, read_only: bool = False) -> None:
        self._read_only = read_only
        self.folder = folder
        self._verified = own / "verified"
        self._scratch = own / "tmp"

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be."""
        return self.folder / digest.file_name

    def status(self, digest: Digest) -> os.stat_result:
        """The blob's facts. Raises NotFoundError, CacheUnusableError if it is not a regular file."""
        path = self.path(digest)
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise NotFoundError(f"the blob {digest} is not in the model folder") from None
        except OSError as error:
            raise from_os_error(error, "inspecting", path) from error
        if not stat.S_ISREG(status.st_mode):
            raise CacheUnusableError(f"{path} is not a regular file; move it away")
        return status

    def marks(self, digest: Digest) -> dict[str, int] | None:
        """Facts that change with the blob's file, None while there is no regular file."""
        try:
            return _facts(self.status(digest))
        except StoreError:
            return None

    def is_verified(self, digest: Digest) -> bool:
        """Whether the blob is there and its marker fits, without reading its bytes."""
        try:
            marker = json.loads(read_bounded(self._verified / digest.hex, 4096))
            return bool(marker == _facts(self.status(digest)))
        except (StoreError, ValueError):
            return False

    def verify(self, digest: Digest, progress: Progress | None = None) -> int:
        """Make sure that the blob's bytes hash to its name; returns its size in bytes.

        Quick when a marker fits. Raises NotFoundError, DigestMismatchError, CacheUnusableError.
        """
        status = self.status(digest)
        if self.is_verified(digest):
            return status.st_size
        handle = open_regular(self.path(digest))
        with os_errors("reading", self.path(digest)), os.fdopen(handle, "rb", buffering=0) as stream:
            actual = _hash(stream, status.st_size, progress)
            after = os.fstat(handle)
        if actual != digest:
            raise DigestMismatchError(f"the blob {self.path(digest).name}", digest, actual)
        if _facts(after) == _facts(status):
            self._mark(digest, after)
        return after.st_size

    def _mark(self, digest: Digest, status: os.stat_result) -> None:
        # Without a marker (a read-only cache) the blob is hashed again next time: slower, never wrong.
        if self._read_only:
            return
        with contextlib.suppress(StoreError):
            data = json.dumps(_facts(status), separators=(",", ":")).encode()
            atomic_write(self._verified / digest.hex, data, self._scratch)

    def write(
        self,
        source: BinaryIO,
        digest: Digest | None = None,
        size: int | None = None,
        check: Check | None = None,
        progress: Progress | None = None,
    ) -> Blob:
        """Copy `source` to its end into the store. See `Store.write_blob`."""
        with BlobWriter(self.folder, digest, size) as writer:
            if size is not None:
                require_space(self.folder, size, "the blob")
            while chunk := source.read(CHUNK_BYTES):
                writer.write(chunk)
                if progress is not None:
                    progress(writer.written, size or writer.written)
            return self.commit(writer, check)

    def commit(self, writer: Draft, check: Check | None) -> Blob:
        """Publish what `writer` holds under its digest; equal bytes that are there already stay untouched."""
        digest = writer.seal(check)
        if self._intact(digest):
            writer.drop()
            return Blob(digest, writer.written, created=False)
        self._mark(digest, writer.publish(self.path(digest)))
        return Blob(digest, writer.written, created=True)

    def _intact(self, digest: Digest) -> bool:
        try:
            self.verify(digest)
        except StoreError:
            return False
        return True

    def remove(self, digest: Digest) -> bool:
        """Delete the blob and its marker; False if it was not there."""
        (self._verified / digest.hex).unlink(missing_ok=True)
        try:
            with os_errors("deleting", self.path(digest)):
                self.path(digest).unlink(missing_ok=False)
        except CacheUnusableError:
            if self.path(digest).exists():
                raise
            return False
        return True

    def remove_stray_markers(self) -> None:
        """Delete the markers of blobs that are not there; looks at 10 000 at most."""
        for name in _names(self._verified):
            if not (self.folder / f"sha256-{name}").exists():
                with os_errors("deleting", self._verified / name):
                    remove_anything(self._verified / name)

    def sweep(self, partial_seconds: float = PARTIAL_SECONDS, now: float | None = None) -> int:
        """Remove leftovers of dead writers: old, and locked by nobody. Returns how many; looks at 10 000 at most."""
        removed = 0
        ages = {TEMPORARY: TEMPORARY_SECONDS, PARTIAL: partial_seconds}
        for folder in (self.folder, self._scratch):
            for prefix, age in ages.items():
                for name in _names(folder, prefix):
                    removed += _remove_if_dead(folder / name, (now or time.time()) - age)
        return removed


def _hash(stream: BinaryIO | object, size: int, progress: Progress | None) -> Digest:
    hasher, done = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):  # type: ignore[union-attr]
        hasher.update(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, size)
    return Digest(hasher.hexdigest())


def _names(folder: Path, prefix: str = "") -> list[str]:
    """At most 10 000 names that begin with `prefix`."""
    try:
        with os_errors("listing", folder), os.scandir(folder) as entries:
            return list(islice((entry.name for entry in entries if entry.name.startswith(prefix)), _MAX_SWEPT))
    except CacheUnusableError:
        if folder.exists():
            raise
        return []


def _remove_if_dead(path: Path, before: float) -> bool:
    try:
        handle = open_regular(path)
    except StoreError:
        return False
    try:
        if os.fstat(handle).st_mtime > before or not try_lock(handle):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)
