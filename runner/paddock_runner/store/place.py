"""A file of this machine as a blob of the store: linked, cloned or copied, hashed once and then known by its facts.

Called by `sources.fetch` for local files, by `store.create`, by `commands.import_ollama` and `commands.convert`. The
store publishes what these writers prepare through its one path: hash, size, digest, check, fsync, rename, fsync.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from paddock_runner.core.digest import Digest
from paddock_runner.store.blobs import Blob, Progress
from paddock_runner.store.errors import (
    CacheUnusableError,
    DigestMismatchError,
    InvalidModelError,
    ReadOnlyError,
    SizeMismatchError,
)
from paddock_runner.store.files import CREATE, open_regular, os_errors, sync_folder
from paddock_runner.store.known import facts_of, known_digest, remember
from paddock_runner.store.locks import try_lock
from paddock_runner.store.store import Store
from paddock_runner.store.writer import CHUNK_BYTES, BlobWriter, Check

Placement = Literal["Link", "Copy", "InPlace"]
"""Link: hard link, else clone, else copy. Copy: clone, else copy. InPlace: hard link or nothing."""

How = Literal["held", "linked", "cloned", "copied"]
"""`held`: the store had the bytes. `linked`: one file with two names. `cloned`: shared until one side is written."""

_FICLONE = 0x40049409
_IMPOSSIBLE = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS}
)


class ChangedError(CacheUnusableError):
    """The file changed while it was read."""

    retryable = True


class _NotPossibleError(Exception):
    """This way of sharing bytes does not work here; another may."""


@dataclass(frozen=True, slots=True)
class Placed(Blob):
    """A blob and how it came into the store."""

    how: How = "held"


def place(
    store: Store,
    path: Path,
    digest: Digest | None,
    placement: Placement,
    check: Check | None,
    progress: Progress | None,
) -> Placed:
    """Bring the regular file `path`, which must be free of symbolic links, into the store as a blob.

    `digest` is what it must hash to, None when unknown. A file that was placed before and has the same device, inode,
    size and times since is not read again. Raises NotFoundError, DigestMismatchError, SizeMismatchError, ChangedError
    (retryable), InvalidModelError (InPlace across volumes), NoSpaceError, ReadOnlyError, CacheUnusableError (a link, a
    special file), and what `check` raises.
    """
    if digest is not None and store.has_verified(digest):
        return _held(store, digest, check, progress)
    handle = _open(store, path)
    try:
        known = known_digest(store, os.fstat(handle))
        if known is not None and digest not in (None, known):
            raise DigestMismatchError(str(path), digest, known)
        if known is not None and store.has_verified(known):
            return _held(store, known, check, progress)
        if digest is not None and _is_blob(store, digest, handle):
            # Linked before, and a link more or less moved its time: another link would do so again.
            store.verify_blob(digest, progress)
            return _held(store, digest, check, None)
        placed = _bring(store, _Source(handle, path, progress), digest, placement, check)
        remember(store, os.fstat(handle), placed.digest)
        return placed
    finally:
        os.close(handle)


def _open(store: Store, path: Path) -> int:
    with contextlib.suppress(OSError):
        if path.is_symlink():
            raise CacheUnusableError(f"{path} is a symbolic link; give the path of the file itself")
    handle = open_regular(path)
    with os_errors("inspecting", path):
        real = Path(os.readlink(f"/proc/self/fd/{handle}"))
        own = store.path.resolve()
    # Judged on what was opened, so a folder that becomes a link in between leads nowhere.
    if real != Path(os.path.abspath(path)) and not real.is_relative_to(own):
        os.close(handle)
        raise CacheUnusableError(f"{path} lies behind a symbolic link, really at {real}; give that path")
    return handle


def _is_blob(store: Store, digest: Digest, handle: int) -> bool:
    try:
        return os.path.samestat(store.blob_path(digest).lstat(), os.fstat(handle))
    except OSError:
        return False


def _held(store: Store, digest: Digest, check: Check | None, progress: Progress | None) -> Placed:
    handle = open_regular(store.blob_path(digest))
    with os.fdopen(handle, "rb") as stream:
        size = os.fstat(handle).st_size
        if check is not None:
            check(stream)
    if progress is not None:
        progress(size, size)
    return Placed(digest, size, created=False)


@dataclass(frozen=True, slots=True)
class _Source:
    """An open file that is to become a blob."""

    handle: int
    path: Path
    progress: Progress | None

    def facts(self) -> dict[str, int]:
        return facts_of(os.fstat(self.handle))

    def require_unchanged(self, before: dict[str, int]) -> None:
        if self.facts() != before:
            raise ChangedError(f"{self.path} changed while it was read; try again when nobody writes it")


def _bring(store: Store, source: _Source, digest: Digest | None, placement: Placement, check: Check | None) -> Placed:
    if store.read_only:
        raise ReadOnlyError(f"the model folder {store.path} is opened read-only")
    for how, method in _methods(placement):
        try:
            with _PreparedWriter(store.path / "blobs", digest, source, method) as writer:
                blob = store.commit(writer, check)
        except _NotPossibleError:
            continue
        return Placed(blob.digest, blob.size, blob.created, how)
    if placement == "InPlace":
        raise InvalidModelError(
            f"placement InPlace: {source.path} lies on another volume than the cache {store.path}, so its bytes cannot "
            "be shared; use Link, which copies them there, or put the cache on that volume"
        )
    return _copy(store, source, digest, check)


def _methods(placement: Placement) -> list[tuple[How, Callable[[int, Path], int]]]:
    clone: tuple[How, Callable[[int, Path], int]] = ("cloned", _clone)
    link: tuple[How, Callable[[int, Path], int]] = ("linked", _link)
    return {"Link": [link, clone], "Copy": [clone], "InPlace": [link]}[placement]


def _copy(store: Store, source: _Source, digest: Digest | None, check: Check | None) -> Placed:
    before = source.facts()

    def checked(stream: object) -> None:
        source.require_unchanged(before)
        if check is not None:
            check(stream)  # type: ignore[arg-type]

    os.lseek(source.handle, 0, os.SEEK_SET)
    with os.fdopen(os.dup(source.handle), "rb") as stream:
        try:
            blob = store.write_blob(stream, digest, before["size"], checked, source.progress)
        except (SizeMismatchError, DigestMismatchError):
            source.require_unchanged(before)
            raise
    return Placed(blob.digest, blob.size, blob.created, "copied")


def _link(source: int, target: Path) -> int:
    # The very file that is open, whatever its name leads to by now. A folder's descriptor makes Python call linkat(2),
    # which follows this link; for an absolute path it is not looked at.
    os.link(f"/proc/self/fd/{source}", target, src_dir_fd=source, follow_symlinks=True)
    return os.dup(source)


def _clone(source: int, target: Path) -> int:
    handle = os.open(target, CREATE | os.O_EXCL, 0o600)
    try:
        fcntl.ioctl(handle, _FICLONE, source)
        os.fchmod(handle, 0o644)
    except BaseException:
        os.close(handle)
        target.unlink(missing_ok=True)
        raise
    return handle


class _PreparedWriter(BlobWriter):
    """A writer whose temporary file has all its bytes from the start."""

    def __init__(
        self, folder: Path, digest: Digest | None, source: _Source, method: Callable[[int, Path], int]
    ) -> None:
        super().__init__(folder, digest, None)
        self._demanded = digest
        self._source = source
        self._method = method
        self._file = -1
        self._sealed: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._make_folder()
        with os_errors("creating", self.path):
            try:
                self._file = self._method(self._source.handle, self.path)
            except OSError as error:
                if error.errno in _IMPOSSIBLE:
                    raise _NotPossibleError from None
                raise
        # A sweeper goes by times, and a link has those of its source: the lock says that it is in use.
        try_lock(self._file)
        return self

    def seal(self, check: Check | None) -> Digest:
        before = facts_of(os.fstat(self._file))
        actual = self._hash_all(before["size"])
        if facts_of(os.fstat(self._file)) != before:
            raise ChangedError(f"{self._source.path} changed while it was read; try again when nobody writes it")
        if self._demanded is not None and actual != self._demanded:
            raise DigestMismatchError(str(self._source.path), self._demanded, actual)
        if check is not None:
            with open(os.dup(self._file), "rb") as stream:
                check(stream)
        with os_errors("syncing", self.path):
            os.fsync(self._file)
        self._sealed = before
        return actual

    def _hash_all(self, size: int) -> Digest:
        hasher = hashlib.sha256()
        os.lseek(self._file, 0, os.SEEK_SET)
        with os_errors("reading", self._source.path):
            while chunk := os.read(self._file, CHUNK_BYTES):
                hasher.update(chunk)
                self.written += len(chunk)
                if self.written > size:
                    raise ChangedError(f"{self._source.path} grows while it is read; try again when nobody writes it")
                if self._source.progress is not None:
                    self._source.progress(self.written, size)
        return Digest(hasher.hexdigest())

    def publish(self, final: Path) -> os.stat_result:
        with os_errors("publishing", final):
            self.path.rename(final)
            sync_folder(self._folder)
            status = os.fstat(self._file)
        # Linking and renaming move ctime, and nothing else.
        if any(facts_of(status)[key] != self._sealed[key] for key in ("inode", "size", "mtime_ns")):
            final.unlink(missing_ok=True)
            raise ChangedError(f"{self._source.path} changed while it was read; try again when nobody writes it")
        return status

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._file)
