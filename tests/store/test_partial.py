"""Partial downloads: pieces in any order, a journal that proves them, and nothing trusted without proof."""

from __future__ import annotations

import errno
import itertools
import os
import random
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core.digest import Digest
from paddock_runner.store import journal
from paddock_runner.store.errors import CacheUnusableError, DigestMismatchError, SizeMismatchError
from paddock_runner.store.journal import HEADER_BYTES, RECORD_BYTES, JournalFacts, Piece
from paddock_runner.store.locks import LockTimeoutError
from paddock_runner.store.partial import DisturbedError, PartialBlob
from paddock_runner.store.store import Store

STEP = 1000
DATA = random.Random(5).randbytes(10 * STEP + 17)
DIGEST = Digest.of(DATA)
OFFSETS = range(0, len(DATA), STEP)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def open_partial(store: Store, size: int | None = len(DATA)) -> PartialBlob:
    return store.resumable(DIGEST, size)


def put(partial: PartialBlob, *offsets: int) -> None:
    for offset in offsets:
        partial.write(offset, [DATA[offset : offset + 10], memoryview(DATA)[offset + 10 : offset + STEP]])


def files(store: Store) -> set[str]:
    return {path.name for path in (store.path / "blobs").iterdir()}


def leave(store: Store, *offsets: int) -> None:
    """A download that ends after these pieces."""
    with open_partial(store) as partial:
        put(partial, *offsets)


@pytest.mark.parametrize("seed", range(5))
def test_pieces_in_any_order_become_the_blob(store: Store, seed: int) -> None:
    order = random.Random(seed).sample(OFFSETS, len(OFFSETS))
    with open_partial(store) as partial:
        for offset in order:
            put(partial, offset)
            partial.advance()
        partial.sync()
        assert partial.complete
        assert store.commit(partial).created
    assert store.blob_path(DIGEST).read_bytes() == DATA
    assert files(store) == {DIGEST.file_name}
    assert store.has_verified(DIGEST)


def test_who_is_far_ahead_of_the_hash_in_order_waits_for_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock_runner.store.partial.CROWDED_BYTES", 2 * STEP)
    with open_partial(store) as partial, ThreadPoolExecutor(2) as pool:
        put(partial, 0, 1000, 2000, 4000)
        partial.wait_for_hash(2000)
        partial.wait_for_hash(4000)
        put(partial, 3000)
        waiting = pool.submit(partial.wait_for_hash, 4000)
        assert not wait([waiting], 0.05).done
        hashing = pool.submit(partial.hash_all)
        waiting.result(10)
        put(partial, *OFFSETS[5:])
        hashing.result(10)
        assert partial.complete
        store.commit(partial)
    assert store.blob_path(DIGEST).read_bytes() == DATA


def test_nobody_waits_for_a_hash_of_what_an_earlier_process_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock_runner.store.partial.CROWDED_BYTES", STEP)
    monkeypatch.setattr("paddock_runner.store.partial.RECENT_BYTES", 2 * STEP)
    leave(store, *OFFSETS[:6])
    with open_partial(store) as partial:
        put(partial, 6000)
        partial.wait_for_hash(6000)
        put(partial, 7000)
        partial.wait_for_hash(7000)
        put(partial, 8000, 9000)
        with ThreadPoolExecutor(2) as pool:
            waiting = pool.submit(partial.wait_for_hash, 9000)
            assert not wait([waiting], 0.05).done, "it falls behind all the same"
            hashing = pool.submit(partial.hash_all)
            waiting.result(10)
            partial.stop()
            hashing.result(10)


def test_a_hash_that_is_stopped_lets_go_of_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock_runner.store.partial.CROWDED_BYTES", STEP)
    with open_partial(store) as partial, ThreadPoolExecutor(2) as pool:
        hashing = pool.submit(partial.hash_all)
        put(partial, 1000)
        assert not wait([hashing], 0.05).done
        partial.stop()
        hashing.result(10)
        put(partial, 0, 2000)
        partial.wait_for_hash(2000)
        assert partial.written == 0


def test_a_hash_that_fails_lets_go_of_who_waits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise CacheUnusableError("the disk does not keep what is written to it")

    monkeypatch.setattr("paddock_runner.store.partial.CROWDED_BYTES", STEP)
    with open_partial(store) as partial, ThreadPoolExecutor(2) as pool:
        put(partial, 0, 1000, 2000)
        waiting = pool.submit(partial.wait_for_hash, 2000)
        assert not wait([waiting], 0.05).done
        monkeypatch.setattr(partial, "advance", fail)
        failing = pool.submit(partial.hash_all)
        try:
            with pytest.raises(CacheUnusableError):
                failing.result(10)
            waiting.result(10)
        finally:
            partial.stop()


def test_the_next_one_continues_and_asks_only_for_gaps(store: Store) -> None:
    leave(store, 0, 1000, 4000)
    assert files(store) == {f"partial-{DIGEST.hex}", f"partial-{DIGEST.hex}.journal"}
    with open_partial(store, None) as partial:
        assert partial.size == len(DATA)
        assert partial.gaps() == [(2000, 4000), (5000, len(DATA))]
        assert partial.gaps(2500, 4500) == [(2500, 4000)]
        assert partial.done == 3000
        partial.advance()
        assert partial.written == 2000
        put(partial, 2000, 3000, *range(5000, len(DATA), STEP))
        partial.advance()
        store.commit(partial)
    assert store.blob_path(DIGEST).read_bytes() == DATA


def test_damaged_pieces_are_missing_again(store: Store) -> None:
    leave(store, *OFFSETS)
    path = store.partial_path(DIGEST)
    content = bytearray(path.read_bytes())
    content[3500] ^= 1
    path.write_bytes(content[:-1])
    with open_partial(store) as partial:
        partial.advance()
        assert partial.gaps() == [(3000, 4000)]
        put(partial, 3000)
        partial.advance()
        assert partial.gaps() == [(10_000, len(DATA))]
        put(partial, 10_000)
        partial.advance()
        store.commit(partial)
    assert store.blob_path(DIGEST).read_bytes() == DATA


def test_a_disk_that_keeps_nothing_is_told(store: Store) -> None:
    leave(store, 0, 1000)
    with open_partial(store) as partial:
        for _ in range(2):
            os.pwrite(partial._handle, b"bad", 1500)
            partial._recent.clear()
            error = None
            try:
                partial.advance()
            except CacheUnusableError as caught:
                error = caught
            else:
                put(partial, 1000)
        assert error is not None
        assert "does not keep" in str(error)


def test_bytes_without_a_journal_are_not_trusted(store: Store) -> None:
    leave(store)
    (store.path / "blobs").mkdir(exist_ok=True, parents=True)
    store.partial_path(DIGEST).write_bytes(DATA[:5000])
    with open_partial(store) as partial:
        assert partial.gaps() == [(0, len(DATA))]
        assert store.partial_path(DIGEST).stat().st_size == 0


def test_a_journal_without_bytes_proves_nothing(store: Store) -> None:
    leave(store, 0, 1000)
    store.partial_path(DIGEST).unlink()
    with open_partial(store) as partial:
        assert partial.done == 0


def test_another_size_begins_anew(store: Store) -> None:
    leave(store, 0, 1000)
    with open_partial(store, len(DATA) + 1) as partial:
        assert partial.done == 0


@pytest.mark.parametrize("cut", range(0, RECORD_BYTES * 2, 7))
def test_a_torn_journal_costs_its_end_only(store: Store, cut: int) -> None:
    leave(store, 0, 1000, 2000)
    path = Path(f"{store.partial_path(DIGEST)}.journal")
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut] + (b"" if cut % 2 else b"\0" * 30))
    lost = -(-cut // RECORD_BYTES)
    with open_partial(store) as partial:
        assert partial.done == 3000 - 1000 * lost
        put(partial, *[1000 * index for index in range(3 - lost, 3)])
    with open_partial(store) as partial:
        assert partial.done == 3000


def test_wrong_bytes_and_wrong_lengths_are_forgotten(store: Store) -> None:
    with store.resumable(Digest("0" * 64), 100) as partial:
        partial.write(0, [b"x" * 100])
        partial.advance()
        with pytest.raises(DigestMismatchError):
            store.commit(partial)
    assert files(store) == set()
    with open_partial(store) as partial:
        put(partial, 0)
        partial.advance()
        with pytest.raises((CacheUnusableError, SizeMismatchError)):
            store.commit(partial)
    assert not store.blob_path(DIGEST).exists()


def test_restart_and_forget_leave_nothing(store: Store) -> None:
    with open_partial(store) as partial:
        put(partial, 0, 1000)
        partial.restart()
        assert partial.gaps() == [(0, len(DATA))]
        put(partial, *OFFSETS)
        partial.advance()
        assert partial.complete
        partial.forget()
    assert files(store) == set()


def test_two_processes_do_not_write_one_partial(store: Store) -> None:
    with open_partial(store), pytest.raises(LockTimeoutError), open_partial(store):
        pass


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of two machines that knows nothing of each other's locks."""
    monkeypatch.setattr("paddock_runner.store.writer.try_lock", lambda handle: True)


HALF = OFFSETS[: len(OFFSETS) // 2]
REST = OFFSETS[len(OFFSETS) // 2 :]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("restarts", [True, False])
def test_another_machine_without_locks_makes_no_wrong_blob(store: Store, restarts: bool) -> None:
    with open_partial(store) as one:
        put(one, *HALF)
        one.advance()
        with open_partial(store) as other:
            if restarts:
                other.restart()
            other.write(REST[0], [bytes(STEP)])
        put(one, *REST)
        one.advance()
        assert one.complete
        with pytest.raises(DisturbedError, match="no locks between machines") as caught:
            store.commit(one)
        assert caught.value.retryable
    assert not store.blob_path(DIGEST).exists()
    with open_partial(store) as again:
        while not again.complete:
            again.advance()
            for start, end in again.gaps():
                again.write(start, [DATA[start:end]])
        store.commit(again)
    assert store.blob_path(DIGEST).read_bytes() == DATA


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("step", ["restart", "sync", "commit"])
def test_a_machine_that_comes_late_leaves_the_blob_alone(store: Store, step: str) -> None:
    with open_partial(store) as late:
        with open_partial(store) as one:
            put(one, *OFFSETS)
            one.advance()
            late.begin(len(DATA))
            one.begin(len(DATA))
            put(one, *OFFSETS)
            store.commit(one)
        put(late, *OFFSETS)
        late.advance()
        with pytest.raises(DisturbedError):
            {"restart": late.restart, "sync": late.sync, "commit": lambda: store.commit(late)}[step]()
    assert store.blob_path(DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_after_a_failed_sync_the_disk_is_read_and_not_the_cache(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    forgotten: list[tuple[int, int, int]] = []

    def fails(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with open_partial(store) as partial:
        put(partial, *OFFSETS)
        partial.advance()
        monkeypatch.setattr(os, call, fails)
        monkeypatch.setattr(os, "posix_fadvise", lambda handle, *rest: forgotten.append(rest))
        with pytest.raises(CacheUnusableError, match="the disk fails"):
            partial.sync() if call == "fdatasync" else store.commit(partial)
    assert set(forgotten) == {(0, 0, os.POSIX_FADV_DONTNEED)}
    assert not store.blob_path(DIGEST).exists()


@pytest.mark.parametrize("name", ["", ".journal"])
@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_planted_files_are_not_written_through(store: Store, tmp_path: Path, kind: str, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (store.path / "blobs").mkdir(parents=True)
    planted = Path(f"{store.partial_path(DIGEST)}{name}")
    planted.hardlink_to(victim) if kind == "hardlink" else planted.symlink_to(victim)
    with pytest.raises(CacheUnusableError), open_partial(store) as partial:
        put(partial, 0)
    assert victim.read_bytes() == b"precious"


def test_the_sweeper_spares_the_living_and_takes_both_files_of_the_dead(store: Store) -> None:
    with open_partial(store) as partial:
        put(partial, 0)
        for path in (store.path / "blobs").iterdir():
            os.utime(path, (0, 0))
        assert store.sweep() == 0
    for path in (store.path / "blobs").iterdir():
        os.utime(path, (0, 0))
    assert store.sweep() == 2
    assert files(store) == set()


PIECES = st.builds(Piece, st.integers(0, 2000), st.integers(1, 300), st.integers(0, (1 << 32) - 1))


@given(st.lists(PIECES, max_size=20), st.integers(2300, 5000))
def test_a_journal_reads_back(pieces: list[Piece], size: int) -> None:
    data = journal.header(DIGEST, size) + b"".join(map(journal.record, pieces))
    assert journal.parse(data, DIGEST) == JournalFacts(size, tuple(pieces), len(data))
    assert journal.parse(data, Digest("0" * 64)) is None


@given(st.lists(PIECES, min_size=1, max_size=9), st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_never_makes_another_piece(pieces: list[Piece], at: int, flip: int) -> None:
    data = bytearray(journal.header(DIGEST, 5000) + b"".join(map(journal.record, pieces)))
    data[at % len(data)] ^= flip
    facts = journal.parse(bytes(data), DIGEST)
    sound = max(0, (at % len(data)) - HEADER_BYTES) // RECORD_BYTES
    assert facts is None if at % len(data) < HEADER_BYTES else facts and facts.pieces == tuple(pieces[:sound])


@pytest.mark.parametrize("data", [b"", b"PDKJ0001", b"\0" * 500, b"x" * (journal.MAX_JOURNAL_BYTES + 1)])
def test_what_is_no_journal(data: bytes) -> None:
    assert journal.parse(data, DIGEST) is None


@pytest.mark.parametrize("piece", [Piece(0, 0, 0), Piece(4990, 11, 0), Piece(0, journal.MAX_PIECE_BYTES + 1, 0)])
def test_pieces_that_cannot_be_end_the_journal(piece: Piece) -> None:
    good = Piece(0, 10, 1)
    for order in itertools.permutations([good, piece]):
        data = journal.header(DIGEST, 5000) + b"".join(map(journal.record, order))
        facts = journal.parse(data, DIGEST)
        assert facts is not None
        assert facts.pieces == ((good,) if order[0] is good else ())


@given(st.lists(PIECES, max_size=30))
def test_later_pieces_stand(pieces: list[Piece]) -> None:
    kept = journal.latest(pieces)
    assert all(left.end <= right.offset for left, right in itertools.pairwise(kept))
    assert not pieces or pieces[-1] in kept
    alone = [a for a in pieces if all(a is b or a.end <= b.offset or b.end <= a.offset for b in pieces)]
    assert set(alone) <= set(kept)
