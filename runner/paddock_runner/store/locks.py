"""Locks between processes that share one model folder: flock(2), which the kernel releases when the owner dies.

Called by `Store`: one lock per digest (a blob is fetched once per cache) and one for the whole folder (shared while a
manifest and its blobs are written, exclusive while unreferenced blobs are removed).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from paddock_runner.store.errors import CacheUnusableError
from paddock_runner.store.files import CREATE, make_folder, os_errors

_POLL_SECONDS = 0.02
_WAIT_SECONDS = 0.1


class LockTimeoutError(CacheUnusableError):
    """Another process holds the lock for too long."""

    retryable = True


@contextlib.contextmanager
def file_lock(path: Path, *, shared: bool = False, timeout: float) -> Iterator[None]:
    """Hold the lock file `path`; waits at most `timeout` seconds. An exclusive owner removes the file at the end.

    Raises LockTimeoutError, CacheUnusableError.
    """
    make_folder(path.parent)
    deadline = time.monotonic() + timeout
    while (handle := _attempt(path, shared, deadline)) is None:
        time.sleep(_POLL_SECONDS)
    with _held(path, shared, handle):
        yield


@contextlib.asynccontextmanager
async def file_lock_async(path: Path, *, timeout: float, waiting: Callable[[], object]) -> AsyncIterator[None]:
    """Hold the lock file `path` exclusively, as `file_lock` does, without blocking the event loop.

    `waiting` is called again and again until the lock is there. Raises LockTimeoutError, CacheUnusableError.
    """
    make_folder(path.parent)
    deadline = time.monotonic() + timeout
    while (handle := _attempt(path, False, deadline)) is None:
        waiting()
        await asyncio.sleep(_WAIT_SECONDS)
    with _held(path, False, handle):
        yield


def remove_free(folder: Path, spared: str) -> None:
    """Remove the lock files that killed owners left in `folder`, except the one called `spared`.

    Who opens one meanwhile finds that it is gone and makes another. Raises CacheUnusableError.
    """
    if not folder.is_dir():
        return
    with os_errors("deleting", folder), os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name != spared and entry.is_file(follow_symlinks=False)]
    for path in paths:
        with os_errors("deleting", path), contextlib.suppress(FileNotFoundError):
            handle = os.open(path, CREATE & ~os.O_CREAT)
            try:
                if try_lock(handle) and is_still(path, handle):
                    path.unlink()
            finally:
                os.close(handle)


@contextlib.contextmanager
def _held(path: Path, shared: bool, handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        if not shared:
            path.unlink(missing_ok=True)
        os.close(handle)


def _attempt(path: Path, shared: bool, deadline: float) -> int | None:
    """The descriptor of the locked file, None while somebody else holds it."""
    with os_errors("locking", path):
        handle = os.open(path, CREATE, 0o644)
        try:
            if try_lock(handle, shared) and is_still(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    if time.monotonic() > deadline:
        raise LockTimeoutError(f"another process is still writing (it holds {path.name}); try again when it is done")
    return None


def try_lock(handle: int, shared: bool = False) -> bool:
    """Lock an open file without waiting; False when somebody else has it."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_still(path: Path, handle: int) -> bool:
    """Whether `path` is the open file; not so when the owner before us removed it between our open and our lock."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False
