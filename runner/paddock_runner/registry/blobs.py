"""Open blobs whose bytes are known to be intact. Used by `registry.app`.

A blob that Paddock wrote has a marker and opens at once. One that another program put there (Ollama's store) is hashed
before its first byte goes out, once for all who wait; the verdict holds while the file's facts stay the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import BinaryIO

from paddock_runner.core.digest import Digest
from paddock_runner.store.errors import NotFoundError, StoreError
from paddock_runner.store.files import open_regular, os_errors
from paddock_runner.store.store import Store

WAIT_SECONDS = 25.0
"""How long a request waits for a hash; a stock client gives up after 30 seconds."""
MAX_KNOWN = 4096

log = logging.getLogger(__name__)

Facts = tuple[int, int, int, int, int]


class HashingError(Exception):
    """The blob is being hashed; asking again later finds it."""


@dataclass(frozen=True, slots=True)
class OpenBlob:
    """An intact blob; the owner closes `file`. `size` in bytes."""

    file: BinaryIO
    size: int


class VerifiedBlobs:
    """The intact blobs of one store. Belongs to one event loop."""

    def __init__(self, store: Store, wait_seconds: float = WAIT_SECONDS) -> None:
        self._store = store
        self._wait_seconds = wait_seconds
        self._known: OrderedDict[Digest, tuple[Facts, bool]] = OrderedDict()
        self._hashing: dict[Digest, asyncio.Task[None]] = {}
        # One at a time: more would only take the disk from each other.
        self._turn = asyncio.Semaphore(1)

    async def open(self, digest: Digest) -> OpenBlob:
        """The blob's bytes, intact. Raises NotFoundError (also for a damaged one), HashingError, CacheUnusableError."""
        found = await asyncio.to_thread(self._open, digest)
        if found is None:
            await self._hashed(digest)
            found = await asyncio.to_thread(self._open, digest)
        if found is None:
            raise HashingError
        return found

    async def _hashed(self, digest: Digest) -> None:
        task = self._hashing.get(digest)
        if task is None:
            task = self._hashing[digest] = asyncio.create_task(self._hash(digest))
            task.add_done_callback(lambda _: self._hashing.pop(digest))
        # The hash goes on when the one who asked is gone: somebody will ask again.
        await asyncio.wait({task}, timeout=self._wait_seconds)
        if not task.done():
            raise HashingError
        task.result()

    async def _hash(self, digest: Digest) -> None:
        async with self._turn:
            await asyncio.to_thread(self._judge, digest)

    def _judge(self, digest: Digest) -> None:
        before = self._facts(digest)
        try:
            self._store.verify_blob(digest)
            intact = True
        except NotFoundError:
            raise
        except StoreError as error:
            log.error("a blob is not served", extra={"digest": str(digest), "problem": str(error)})
            intact = False
        if self._facts(digest) == before:
            self._remember(digest, before, intact)

    def _remember(self, digest: Digest, facts: Facts, intact: bool) -> None:
        self._known[digest] = (facts, intact)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _facts(self, digest: Digest) -> Facts:
        try:
            return _facts_of(os.lstat(self._store.blob_path(digest)))
        except FileNotFoundError:
            raise NotFoundError(f"the blob {digest} is not in the model folder") from None

    def _open(self, digest: Digest) -> OpenBlob | None:
        """The blob if it is known to be intact, None if it has to be hashed first."""
        path = self._store.blob_path(digest)
        file = os.fdopen(open_regular(path), "rb", buffering=0)
        try:
            with os_errors("inspecting", path):
                facts = _facts_of(os.fstat(file.fileno()))
            if self._is_intact(digest, facts):
                return OpenBlob(file, facts[2])
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def _is_intact(self, digest: Digest, facts: Facts) -> bool:
        known = self._known.get(digest)
        if known is not None and known[0] == facts:
            if not known[1]:
                raise NotFoundError(f"the blob {digest} is damaged")
            return True
        # The marker is about the file under the name: equal facts before and after say that it is the open one.
        return self._store.has_verified(digest) and self._facts(digest) == facts


def _facts_of(status: os.stat_result) -> Facts:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
