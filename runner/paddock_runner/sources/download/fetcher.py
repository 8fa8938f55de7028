"""Fetch one lease into the partial blob: the answer held against earlier ones, its bytes put in their places.

Used by `sources.download.ranges` for every request.
"""

from __future__ import annotations

from paddock_runner.sources.download.leases import Lease
from paddock_runner.sources.download.pace import Patience
from paddock_runner.sources.download.requests import Incoming, Requests
from paddock_runner.sources.download.spool import Spool, Write
from paddock_runner.sources.errors import NetworkError
from paddock_runner.store.direct import BLOCK
from paddock_runner.store.errors import SizeMismatchError
from paddock_runner.store.files import require_space
from paddock_runner.store.partial import PartialBlob


class NoLengthError(Exception):
    """The server does not say how long the file is."""


class ChangedError(NetworkError):
    """Two answers of one server are of two versions of the file."""


class Fetcher:
    """All requests of one download. `write` stores bytes at an offset; `careful`: the digest alone tells versions."""

    def __init__(self, requests: Requests, partial: PartialBlob, write: Write, careful: bool) -> None:
        self._requests = requests
        self._partial = partial
        self._write = write
        self._careful = careful
        self._etags: dict[str, str] = {}

    async def fetch(self, lease: Lease, patience: Patience, start: int) -> None:
        """Ask for the bytes from `start` to the end of `lease`, store those that are missing.

        What came before a failure is stored too. Raises NetworkError, SizeMismatchError, NotGGUFError, NoSpaceError,
        ChangedError, NoLengthError and what the transport raises.
        """
        async with self._requests.open(start, lease.end, self._partial.size) as incoming:
            self._agree(incoming, lease)
            spool = Spool(self._partial, lease, incoming.body.start, self._write, patience)
            try:
                await self._copy(incoming, lease, spool)
            except BaseException:
                if incoming.intake is not None:
                    spool.add(incoming.intake.rest(), self._room(incoming, lease, spool))
                await spool.rescue()
                raise
            if spool.reached < (end := min(lease.end, incoming.body.end)):
                raise NetworkError(f"{self._requests.host}: the connection ended after {spool.reached} of {end} bytes")

    def require_space(self) -> None:
        """Raise NoSpaceError if the rest does not fit."""
        missing = (self._partial.size or 0) - self._partial.done
        require_space(self._partial.path.parent, missing, f"the rest of the file from {self._requests.host}")

    def _agree(self, incoming: Incoming, lease: Lease) -> None:
        known = self._etags.setdefault(incoming.place, incoming.etag)
        if known and incoming.etag and known != incoming.etag and not self._careful:
            raise ChangedError(f"the file changed at {self._requests.host} while it was downloaded")
        if self._partial.size is None:
            if incoming.body.total is None:
                raise NoLengthError
            self._partial.begin(incoming.body.total)
            lease.end = incoming.body.total
            self.require_space()

    async def _copy(self, incoming: Incoming, lease: Lease, spool: Spool) -> None:
        async for data in self._requests.pieces(incoming):
            self._check_total(incoming)
            spool.add(data, self._room(incoming, lease, spool))
            # One half is collected while the other is written: together the chunk that a kill may cost.
            if spool.count > self._requests.limits.chunk_bytes // 2 - BLOCK:
                with incoming.watched.held():
                    await spool.flush()
            if not self._room(incoming, lease, spool):
                break
        self._check_total(incoming)
        with incoming.watched.held():
            await spool.finish()

    @staticmethod
    def _room(incoming: Incoming, lease: Lease, spool: Spool) -> int:
        """Bytes that are still wanted."""
        return max(0, min(lease.end, incoming.body.end) - spool.reached)

    def _check_total(self, incoming: Incoming) -> None:
        total, size = incoming.body.total, self._partial.size
        if total is not None and size is not None and total != size:
            raise SizeMismatchError(f"the file of {self._requests.host}", size, total)
