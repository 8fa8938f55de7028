"""Bring one planned file into the store: once per digest and cache, resumed, verified, published.

Called by `sources.fetch` for every file whose bytes are behind a URL. docs/store.md tells what a kill costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from paddock_runner.core.digest import Digest
from paddock_runner.sources.download.fetcher import ChangedError, NoLengthError
from paddock_runner.sources.download.pace import DownloadLimits
from paddock_runner.sources.download.ranges import Ranges
from paddock_runner.sources.download.requests import Requests
from paddock_runner.sources.download.stream import Stream
from paddock_runner.sources.download.threads import finish
from paddock_runner.sources.plan import PlannedFile, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.blobs import Blob
from paddock_runner.store.errors import DigestMismatchError, NotFoundError, SizeMismatchError
from paddock_runner.store.files import require_space
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.store import Store
from paddock_runner.store.writer import Check

DEFAULTS = DownloadLimits()


async def download(
    store: Store,
    file: PlannedFile,
    transport: Transport,
    progress: LayerProgress,
    check: Check | None = None,
    limits: DownloadLimits = DEFAULTS,
) -> Blob:
    """Make sure that the file's bytes are in the store under their digest; `file.where` must be Remote.

    One process at a time fetches a digest; the others wait and find it. Wrong bytes are fetched once more, from the
    start. `progress` gets the digest (that of the file's name where the file's is not known), bytes done and in total.
    A cancellation, a kill and most errors leave what came, for the next call to continue with.

    Raises NetworkError, UnauthorizedError, NotFoundError, ForbiddenAddressError, InsecureSourceError, NotGGUFError,
    DigestMismatchError, SizeMismatchError, NoSpaceError, ReadOnlyError, CacheUnusableError and what `check` raises.
    """
    work = _Work(store, file, transport, progress, check, limits)
    if file.digest is None:
        return await work.stream()
    if (blob := await work.held(file.digest)) is not None:
        return blob
    async with store.fetching(file.digest, work.waiting(file.digest)):
        return await work.held(file.digest) or await work.fetch(file.digest)


class _Work:
    """One call of `download`."""

    def __init__(
        self,
        store: Store,
        file: PlannedFile,
        transport: Transport,
        progress: LayerProgress,
        check: Check | None,
        limits: DownloadLimits,
    ) -> None:
        if not isinstance(file.where, Remote):
            raise TypeError(f"{file.name} is not behind a URL")
        self._store = store
        self._file = file
        self._progress = progress
        self._check = check
        self._requests = Requests(file.where.url, file.kind, transport, limits)
        self._shown = file.digest or Digest.of(file.name.encode())

    def _tell(self, done: int, total: int) -> None:
        self._progress(self._shown, done, total)

    async def held(self, digest: Digest) -> Blob | None:
        """The blob, if the store has it intact; one without a marker is hashed."""
        try:
            size = await finish(self._store.verify_blob, digest)
        except (NotFoundError, DigestMismatchError):
            return None
        if self._file.size not in (None, size):
            raise SizeMismatchError(f"the blob {digest}", self._file.size or 0, size)
        return Blob(digest, size, created=False)

    def waiting(self, digest: Digest) -> Callable[[], None]:
        """Shows what the process has that fetches the digest now."""
        shown = 0

        def look() -> None:
            nonlocal shown
            with contextlib.suppress(OSError):
                done = self._store.partial_path(digest).stat().st_blocks * 512
                total = self._file.size or done
                if done > shown:
                    shown = done
                    self._tell(min(done, total), total)

        return look

    async def fetch(self, digest: Digest) -> Blob:
        """Download. What does not fit together is fetched once more with care, since no one knows what is wrong."""
        try:
            return await self._ranges(digest, careful=False)
        except (DigestMismatchError, SizeMismatchError, ChangedError):
            return await self._ranges(digest, careful=True)

    async def _ranges(self, digest: Digest, careful: bool) -> Blob:
        self._requests.mirrors = not careful
        with self._store.resumable(digest, self._file.size) as partial:
            missing = (partial.size or 0) - partial.done
            require_space(partial.path.parent, missing, f"the file {self._file.name}")
            try:
                await Ranges(self._requests, partial, self._tell, careful).run()
                return await finish(self._store.commit, partial, self._check)
            except (SizeMismatchError, ChangedError):
                partial.forget()
                raise
            except NoLengthError:
                partial.forget()
        return await self.stream()

    async def stream(self) -> Blob:
        """Download what has no digest or no length."""
        with self._store.incoming(self._file.digest, self._file.size) as writer:
            await Stream(self._requests, writer, self._file.size, self._tell).run()
            return await finish(self._store.commit, writer, self._check)
