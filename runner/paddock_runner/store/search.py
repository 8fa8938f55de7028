"""Find a model by its manifest's digest, however long that takes. Called by `commands.serve`, one event loop.

A puller may still be writing it, or repair what is damaged. So the search never gives up; it hashes damaged bytes again
only after one of their files changed, or after five minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from paddock_runner.core.digest import Digest
from paddock_runner.store.errors import CacheUnusableError, NotFoundError, StoreError, from_os_error
from paddock_runner.store.hold import Hold, hold
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import ModelFiles, load_model
from paddock_runner.store.store import Store

FIRST_SECONDS = 0.25
MOST_SECONDS = 3.0
RECHECK_SECONDS = 300.0
ABSENT = "waiting for the model to be in the cache"

Found = tuple[Store, StoredManifest, ModelFiles]


class Search:
    """Looks for `digest` in `store`; use `until_found` once.

    What it found is held until `close`, so that no collector removes it.
    """

    def __init__(self, path: Path, digest: Digest) -> None:
        self._store = Store(path)
        self._digest = digest
        self._seen: object = None
        self._again_at = 0.0
        self._problem = ABSENT
        self._stopped = False
        self._hold: Hold | None = None

    def close(self) -> None:
        """The model is not used any more."""
        self._stopped = True
        if self._hold is not None:
            self._hold.close()

    async def until_found(self, on_problem: Callable[[str], None]) -> Found:
        """The model, verified. `on_problem` gets each new reason why it is not there yet."""
        told, pause = "", FIRST_SECONDS
        try:
            while True:
                # In a thread: hashing tens of gigabytes must not keep health checks waiting.
                found = await asyncio.to_thread(self._look)
                if found is not None:
                    return found
                if self._problem != told:
                    told = self._problem
                    on_problem(told)
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, MOST_SECONDS)
        finally:
            self._stopped = True

    def _look(self) -> Found | None:
        """One look; None while the model is absent or damaged."""
        try:
            stored = self._store.manifest_by_digest(self._digest)
        except NotFoundError:
            self._seen, self._problem = None, ABSENT
            return None
        except StoreError as error:
            self._seen, self._problem = None, _told(error)
            return None
        marks = self._store.marks(stored.manifest)
        if marks == self._seen and time.monotonic() < self._again_at:
            return None
        return self._load(stored, marks)

    def _load(self, stored: StoredManifest, marks: object) -> Found | None:
        held: Hold | None = None
        try:
            # First: what is verified under the lock stays.
            held = hold(self._store, stored)
            files = load_model(self._store, stored, progress=self._still_wanted)
            self._hold = held
            return self._store, stored, files
        except (StoreError, OSError) as failure:
            error = failure if isinstance(failure, StoreError) else from_os_error(failure, "reading", self._store.path)
            self._seen, self._problem = marks, _told(error)
            self._again_at = time.monotonic() + RECHECK_SECONDS
            if held is not None:
                held.close()
            return None

    def _still_wanted(self, digest: Digest, done: int, total: int) -> None:
        if self._stopped:
            raise CacheUnusableError("the search was ended")


def _told(error: StoreError) -> str:
    return f"{error.reason}: {error}"
