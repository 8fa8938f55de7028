"""A shared lock on a manifest's file while its model is served: no collector removes the manifest or its bytes.

Called by `store.search` for a runner and, for the other side, by `store.collect`. flock(2) works on a file that was
opened for reading, so a runner on a read-only mount holds its model too; the kernel lets go when it dies. A collector
on another machine sees it where the file system passes locks on (NFSv4 does); else the list of live digests tells.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

from paddock_runner.core.names import ModelName
from paddock_runner.store.errors import NotFoundError
from paddock_runner.store.files import READ, open_regular, os_errors
from paddock_runner.store.locks import LockTimeoutError, try_lock
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.store import Store

HOLD_SECONDS = 10.0
_POLL_SECONDS = 0.05

log = logging.getLogger(__name__)


class Hold:
    """A lock on a manifest until `close`, or until the process ends."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def close(self) -> None:
        """Let go; twice is no error."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def manifest_path(store: Store, name: ModelName) -> Path:
    """The file of a stored name in its stored spelling."""
    return store.path.joinpath("manifests", *name.path_parts)


def hold(store: Store, stored: StoredManifest, timeout: float = HOLD_SECONDS) -> Hold:
    """Hold the manifest for as long as its model is used, and note on a pin that it is used now.

    Raises NotFoundError if a collector just removed it, LockTimeoutError after `timeout` seconds of its work.
    """
    path = manifest_path(store, stored.name)
    deadline = time.monotonic() + timeout
    while (handle := _shared(path)) is None:
        if time.monotonic() > deadline:
            raise LockTimeoutError(f"a collector holds {path.name} of {stored.name}; try again when it is done")
        time.sleep(_POLL_SECONDS)
    if stored.is_pin and not store.read_only:
        # A collector goes by age. Names of people keep their time: it is shown as that of the model.
        with contextlib.suppress(OSError):
            os.utime(handle)
    return Hold(handle)


def take_for_removal(store: Store, name: ModelName) -> Hold | None:
    """The exclusive lock on a manifest that is about to go; None while somebody serves it.

    Raises NotFoundError, CacheUnusableError.
    """
    path = manifest_path(store, name)
    handle = _open_writable(path)
    with os_errors("locking", path):
        if try_lock(handle):
            return Hold(handle)
    os.close(handle)
    return None


def _open_writable(path: Path) -> int:
    """NFS gives an exclusive lock only on a file that is open for writing; elsewhere reading will do."""
    try:
        return os.open(path, (READ & ~os.O_RDONLY) | os.O_RDWR)
    except OSError:
        return open_regular(path)


def _shared(path: Path) -> int | None:
    handle = open_regular(path)
    try:
        locked = try_lock(handle, shared=True)
    except OSError as error:
        # A model that cannot be held can be served all the same; the list of live digests protects it.
        log.warning("the model is served without a lock against collectors: %s", error)
        return handle
    if not locked:
        os.close(handle)
        return None
    if _is_gone(path, handle):
        os.close(handle)
        raise NotFoundError(f"{path} does not exist any more")
    return handle


def _is_gone(path: Path, handle: int) -> bool:
    try:
        return not os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return True
