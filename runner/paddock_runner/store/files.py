"""Durable file operations below one folder: typed errors, bounded reads, atomic writes, free space.

Called by the other modules of the store. Everything is opened without following a link at the last path part.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from paddock_runner.store.errors import CacheUnusableError, NoSpaceError, NotFoundError, from_os_error

GROUP_READS = 0o750
# The kernel takes no more buffers than this in one call (IOV_MAX).
MAX_PARTS = 1024
CREATE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, so that a FIFO in the place of a file cannot hang the reader.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@contextlib.contextmanager
def os_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn any OSError of the block into NoSpaceError, ReadOnlyError or CacheUnusableError."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing, path) from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def forget_cached(handle: int) -> None:
    """Let the kernel read the file from the disk again.

    After a failed sync it calls pages clean that never got there: whoever reads them believes that all is well, and the
    next sync does too.
    """
    with contextlib.suppress(OSError):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, durably and readable by their group; nothing happens if it exists."""
    with os_errors("creating", folder):
        if folder.is_dir():
            return
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        # Runners are another user of the same group, whatever the umask here; setgid is inherited and stays.
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & GROUP_READS != GROUP_READS:
            folder.chmod(mode | GROUP_READS)
        sync_folder(folder.parent)


def temporary_name(prefix: str) -> str:
    """A name that nobody else uses: `prefix` and 128 random bits."""
    return f"{prefix}{secrets.token_hex(16)}"


def remove_anything(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing happens if it is gone. Raises OSError."""
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):
        # Some systems say EPERM of a folder.
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise
        shutil.rmtree(path)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write every byte of `data`, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def write_at(handle: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
    """Write every byte of `parts`, one after the other, beginning at `offset`."""
    left = [memoryview(part) for part in parts]
    while left:
        done = os.pwritev(handle, left[:MAX_PARTS], offset)
        offset += done
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if done:
            left[0] = left[0][done:]


def atomic_write(path: Path, data: bytes, scratch: Path) -> None:
    """Put `data` at `path` whole or not at all, on disk when this returns.

    `scratch` is a folder on the same file system for the temporary file. Raises NoSpaceError, CacheUnusableError.
    """
    make_folder(scratch)
    make_folder(path.parent)
    temporary = scratch / temporary_name("tmp-")
    with os_errors("writing", path):
        handle = os.open(temporary, CREATE | os.O_EXCL, 0o600)
        try:
            with contextlib.closing(os.fdopen(handle, "wb", closefd=True)):
                write_all(handle, data)
                os.fchmod(handle, 0o644)
                os.fsync(handle)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def open_regular(path: Path, follow: bool = False) -> int:
    """Open a regular file for reading and return its descriptor; `follow` allows a link at the last part.

    Raises NotFoundError, and CacheUnusableError for a link, folder, FIFO or device.
    """
    try:
        handle = os.open(path, READ & ~os.O_NOFOLLOW if follow else READ)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise from_os_error(error, "opening", path) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CacheUnusableError(f"{path} is not a regular file; move it away")
    return handle


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises NotFoundError, CacheUnusableError."""
    handle = open_regular(path)
    with os_errors("reading", path), os.fdopen(handle, "rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise CacheUnusableError(f"{path} is larger than {limit} bytes")
    return data


def require_space(folder: Path, size: int, what: str) -> None:
    """Raise NoSpaceError when `size` more bytes do not fit on the file system of `folder`."""
    with os_errors("inspecting", folder):
        facts = os.statvfs(folder)
    free = facts.f_bavail * facts.f_frsize
    if size > free:
        raise NoSpaceError(
            f"{what} needs {size} bytes, but {folder} has only {free} free; free some space or use another folder"
        )
