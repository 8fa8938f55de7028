"""A blob that arrives in pieces, in any order, by any number of threads, and survives a kill at any moment.

Called by `Store.resumable` for the download engine. A piece is written to its place, then recorded in the journal; the
SHA-256 runs behind over what is there in order. Only pieces whose checksum still fits after a restart count.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MAX_BLOB_BYTES
from paddock_runner.store.direct import DirectFile
from paddock_runner.store.errors import CacheUnusableError, StoreError
from paddock_runner.store.files import (
    forget_cached,
    make_folder,
    os_errors,
    read_bounded,
    sync_folder,
    write_all,
    write_at,
)
from paddock_runner.store.journal import (
    HEADER_BYTES,
    MAX_JOURNAL_BYTES,
    RECORD_BYTES,
    JournalFacts,
    Piece,
    checksum,
    header,
    latest,
    parse,
    record,
)
from paddock_runner.store.locks import is_still
from paddock_runner.store.spans import Span, Spans
from paddock_runner.store.writer import PARTIAL, Check, Draft

JOURNAL = ".journal"
RECENT_BYTES = 8 << 20
"""What is hashed from memory: bytes that came at most so far ahead of the hash. All others are read again."""
CROWDED_BYTES = 1 << 20
_NO_LOCKS = "the file system gives no locks between machines, so fetch one model from one machine at a time; try again"


class DisturbedError(CacheUnusableError):
    """Another machine works on the same download, and no lock kept it away."""

    retryable = True


def partial_name(digest: Digest) -> str:
    """The name of the file that holds the bytes so far."""
    return f"{PARTIAL}{digest.hex}"


def kept_journal(blobs: Path, digest: Digest) -> Path:
    """Where the journal of a finished download stays; `blobs` is the folder of the blobs."""
    return blobs.parent / ".paddock" / "journals" / digest.hex


class PartialBlob(Draft):
    """The file `partial-<hex>` and its journal. Thread-safe: `write`, `sync` and one `hash_all` may run together.

    `size` is None until the first answer of a server tells it (`begin`), unless an earlier download left it.
    """

    def __init__(self, folder: Path, digest: Digest, size: int | None) -> None:
        super().__init__(folder, partial_name(digest), digest, size)
        self._name: Digest = digest
        self._journal_path = folder / f"{self.path.name}{JOURNAL}"
        self._journal = -1
        self._journal_bytes = 0
        self._journal_sum = 0
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._stopped = False
        self._damaged: set[int] = set()
        self._named_durably = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._spans = Spans()
        self._proofs: dict[int, Piece] = {}
        self._recent: dict[int, Sequence[bytes | memoryview]] = {}
        self._hash = hashlib.sha256()
        self._least_lag = MAX_BLOB_BYTES
        self.written = 0
        self.unsynced = 0

    # Opening and closing

    def __enter__(self) -> Self:
        self._make_folder()
        self._handle = self._open(self.path, 0)
        self._direct = DirectFile(self._handle)
        try:
            self._journal = self._open(self._journal_path, os.O_APPEND)
            self._keep = True
            self._load()
        except BaseException:
            self._direct.close()
            os.close(self._handle)
            if self._journal >= 0:
                os.close(self._journal)
            raise
        return self

    def _load(self) -> None:
        with os_errors("reading", self._journal_path):
            data = os.pread(self._journal, MAX_JOURNAL_BYTES + 1, 0)
            facts = parse(data, self._name)
            empty = os.fstat(self._handle).st_size == 0
        if facts is None or empty or self._size not in (None, facts.size):
            self.restart()
        else:
            self._adopt(facts)
            self._journal_sum = checksum([data[: facts.sound_bytes]])

    def _adopt(self, facts: JournalFacts) -> None:
        with os_errors("truncating", self._journal_path):
            os.ftruncate(self._journal, facts.sound_bytes)
        self._size, self._journal_bytes = facts.size, facts.sound_bytes
        for piece in latest(facts.pieces):
            self._proofs[piece.offset] = piece
            self._spans.add(piece.offset, piece.end)

    def restart(self) -> None:
        """Forget all bytes so far, but not the size."""
        self._require_own()
        with self._lock, os_errors("truncating", self.path):
            # In this order a kill in between leaves bytes without proof, never a proof of other bytes.
            os.ftruncate(self._journal, 0)
            os.ftruncate(self._handle, 0)
            self._begin_anew()
            self._journal_bytes = self._journal_sum = 0
        if self._size is not None:
            self.begin(self._size)

    def begin(self, size: int) -> None:
        """Declare the size in bytes, before anything is written."""
        with self._lock, os_errors("writing", self._journal_path):
            self._size = size
            os.ftruncate(self._journal, 0)
            write_all(self._journal, start := header(self._name, size))
            self._journal_bytes, self._journal_sum = HEADER_BYTES, checksum([start])
            self._news.notify_all()

    def _require_own(self) -> None:
        """Raise if the file has another name by now: it is a blob, which nobody may write."""
        with os_errors("inspecting", self.path):
            if not is_still(self.path, self._handle):
                raise DisturbedError(f"another machine took {self.path.name} away; {_NO_LOCKS}")

    def _require_alone(self) -> None:
        """Raise if somebody else wrote here: what was hashed is what this process wrote or proved."""
        self._require_own()
        # Opened anew: that makes a client of NFS look at the server.
        found = read_bounded(self._journal_path, MAX_JOURNAL_BYTES)
        if (len(found), checksum([found])) != (self._journal_bytes, self._journal_sum):
            raise DisturbedError(f"another machine writes {self.path.name} too; {_NO_LOCKS}")

    def seal(self, check: Check | None) -> Digest:
        self._require_alone()
        return super().seal(check)

    def forget(self) -> None:
        """Keep nothing when the download ends without a commit."""
        self._keep = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keep or not self.done:
            self.path.unlink(missing_ok=True)
            self._journal_path.unlink(missing_ok=True)
        self._direct.close()
        os.close(self._handle)
        os.close(self._journal)

    def publish(self, final: Path) -> os.stat_result:
        facts = super().publish(final)
        # Kept beside the store: a repair fetches only the pieces that do not fit any more.
        kept = kept_journal(self._folder, self._name)
        try:
            make_folder(kept.parent)
            os.fchmod(self._journal, 0o644)
            self._journal_path.rename(kept)
        except (OSError, StoreError):
            self._journal_path.unlink(missing_ok=True)
        return facts

    def drop(self) -> None:
        super().drop()
        self._journal_path.unlink(missing_ok=True)

    # What is there

    @property
    def size(self) -> int | None:
        """Bytes of the whole blob."""
        return self._size

    @property
    def done(self) -> int:
        """Bytes that are there, hashed or not."""
        with self._lock:
            return self._spans.total

    @property
    def complete(self) -> bool:
        """Whether every byte is there and hashed."""
        return self.written == self._size

    @property
    def can_advance(self) -> bool:
        """Whether there is something to hash now."""
        return self.written in self._proofs and not self._stopped

    def gaps(self, start: int = 0, end: int = MAX_BLOB_BYTES) -> list[Span]:
        """The missing spans between `start` and `end`, in order."""
        limit = end if self._size is None else min(end, self._size)
        with self._lock:
            return self._spans.gaps(start, limit)

    # Bytes in

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        """Store missing bytes at `offset` and record them. Raises NoSpaceError, ReadOnlyError, CacheUnusableError.

        The size must have been declared. Bytes that are there already must not be given again.
        """
        piece = Piece(offset, sum(len(part) for part in parts), checksum(parts))
        with os_errors("writing", self.path):
            if not self._direct.write(offset, parts):
                write_at(self._handle, parts, offset)
        with self._lock:
            self._record(piece)
            self._spans.add(piece.offset, piece.end)
            self._proofs[offset] = piece
            self.unsynced += piece.length
            if offset - self.written < RECENT_BYTES:
                self._recent[offset] = parts
            self._news.notify_all()

    def wait_for_hash(self, offset: int) -> None:
        """Let the hash, which must be running, catch up with `offset` if it falls behind and all before that is there.

        It would stay so far behind that it had to read every byte again. One that reads what an earlier process left
        comes closer by itself, and the link need not rest.
        """
        with self._news:
            if self._spans.gaps(self.written, offset):
                return
            lag = offset - self.written
            self._least_lag = min(self._least_lag, lag)
            behind = lag <= RECENT_BYTES or lag > self._least_lag + RECENT_BYTES
            while behind and self.can_advance and offset - self.written > CROWDED_BYTES:
                self._news.wait()

    def _record(self, piece: Piece) -> None:
        # A journal that is full costs a longer resume; a torn record would cost all that follow it.
        if self._journal_bytes + RECORD_BYTES > MAX_JOURNAL_BYTES:
            return
        with os_errors("writing", self._journal_path):
            try:
                write_all(self._journal, line := record(piece))
            except OSError:
                os.ftruncate(self._journal, self._journal_bytes)
                raise
        self._journal_bytes += RECORD_BYTES
        self._journal_sum = checksum([line], self._journal_sum)

    def advance(self) -> None:
        """Hash what is there in order, to its end. One thread at a time. Pieces that are damaged become missing."""
        while self.can_advance:
            with self._lock:
                piece, parts = self._proofs[self.written], self._recent.pop(self.written, None)
            if parts is None and (parts := self._proved(piece)) is None:
                return
            for part in parts:
                self._hash.update(part)
            with self._lock:
                del self._proofs[piece.offset]
                self.written = piece.end
                self._news.notify_all()

    def hash_all(self) -> None:
        """Hash what comes until all is hashed, or until `stop`, which a failure is too: nobody may wait for it."""
        try:
            while not (self.complete or self._stopped):
                self.advance()
                with self._news:
                    if not (self.complete or self._stopped or self.can_advance):
                        self._news.wait()
        except BaseException:
            self.stop()
            raise

    def _proved(self, piece: Piece) -> Sequence[bytes | memoryview] | None:
        """The piece's bytes from the file, None (and forgotten) if they are not those that were recorded."""
        data: bytes | memoryview = b""
        with contextlib.suppress(OSError):
            data = self._direct.read(piece.offset, piece.length) or os.pread(self._handle, piece.length, piece.offset)
        if len(data) == piece.length and checksum([data]) == piece.checksum:
            return [data]
        if piece.offset in self._damaged:
            raise CacheUnusableError(f"the disk of {self.path.parent} does not keep what is written to it")
        with self._lock:
            self._damaged.add(piece.offset)
            del self._proofs[piece.offset]
            self._spans.remove(piece.offset, piece.end)
        return None

    def stop(self) -> None:
        """Make all that waits or hashes return soon."""
        with self._news:
            self._stopped = True
            self._news.notify_all()

    def sync(self) -> None:
        """Force the bytes to disk, then their records, so that a power cut costs what came after."""
        self._require_own()
        with self._lock:
            counted, self.unsynced = self.unsynced, 0
        try:
            with os_errors("syncing", self.path):
                os.fdatasync(self._handle)
                os.fdatasync(self._journal)
                if not self._named_durably:
                    sync_folder(self._folder)
                    self._named_durably = True
        except StoreError:
            self.unsynced += counted
            forget_cached(self._handle)
            forget_cached(self._journal)
            raise

    def _digest_now(self) -> Digest:
        if not self.complete:
            raise CacheUnusableError(f"{self.path.name} has {self.written} of {self._size} bytes")
        return Digest(self._hash.hexdigest())
