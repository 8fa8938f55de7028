"""The verified write path and what reads it: every failure is typed, and nothing unverified ever has a final name."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.store.conftest import remount_read_only

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import CONFIG_TYPE, Layer, build_manifest, layer
from paddock_runner.core.names import ModelName
from paddock_runner.store.errors import (
    CacheUnusableError,
    DigestMismatchError,
    NoSpaceError,
    NotFoundError,
    NotGGUFError,
    ReadOnlyError,
    SizeMismatchError,
    StoreError,
)
from paddock_runner.store.gguf import check_gguf
from paddock_runner.store.locks import LockTimeoutError, file_lock
from paddock_runner.store.show import rfc3339
from paddock_runner.store.store import Store

DATA = b"some bytes " * 1000
DIGEST = Digest.of(DATA)
NAME = ModelName.parse("x:1")


def put(store: Store, name: str = "x:1", data: bytes = DATA) -> Digest:
    """A stored model of one layer; returns the digest of its manifest."""
    blob = store.write_blob(io.BytesIO(data))
    config = store.write_blob(io.BytesIO(b"{}" + b" " * (len(data) % 7)))
    manifest = build_manifest(Layer(CONFIG_TYPE, config.digest, config.size), [layer("model", blob.digest, blob.size)])
    return store.write_manifest(ModelName.parse(name), manifest).digest


def blobs(store: Store) -> set[str]:
    return {path.name for path in (store.path / "blobs").iterdir()}


def test_a_written_blob_is_whole_readable_and_marked(store: Store) -> None:
    blob = store.write_blob(io.BytesIO(DATA), DIGEST, len(DATA))
    path = store.blob_path(DIGEST)
    assert (blob.digest, blob.size, blob.created) == (DIGEST, len(DATA), True)
    assert path.name == DIGEST.file_name
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o644
    assert store.has_verified(DIGEST)
    assert blobs(store) == {DIGEST.file_name}


def test_the_marker_has_the_published_shape(store: Store) -> None:
    store.write_blob(io.BytesIO(DATA))
    status = store.blob_path(DIGEST).stat()
    marker = json.loads((store.path / ".paddock" / "verified" / DIGEST.hex).read_bytes())
    assert marker == {
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def test_the_same_bytes_are_kept_not_replaced(store: Store) -> None:
    store.write_blob(io.BytesIO(DATA))
    inode = store.blob_path(DIGEST).stat().st_ino
    assert store.write_blob(io.BytesIO(DATA)).created is False
    assert store.blob_path(DIGEST).stat().st_ino == inode
    assert blobs(store) == {DIGEST.file_name}


def refuse(stream: BinaryIO) -> None:
    raise NotGGUFError(stream.read(4))


@pytest.mark.parametrize(
    ("digest", "size", "check", "error"),
    [
        (Digest.of(b"other"), None, None, DigestMismatchError),
        (None, len(DATA) + 1, None, SizeMismatchError),
        (None, len(DATA) - 1, None, SizeMismatchError),
        (None, 0, None, SizeMismatchError),
        (None, None, refuse, NotGGUFError),
        (None, None, check_gguf, NotGGUFError),
    ],
)
def test_a_refused_blob_leaves_nothing(
    store: Store, digest: Digest | None, size: int | None, check: object, error: type[StoreError]
) -> None:
    with pytest.raises(error):
        store.write_blob(io.BytesIO(DATA), digest, size, check)  # type: ignore[arg-type]
    assert blobs(store) == set()
    with pytest.raises(NotFoundError):
        store.verify_blob(DIGEST)


def test_a_failing_stream_leaves_nothing(store: Store) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError("gone")
            return super().read(10)

    with pytest.raises(ConnectionResetError):
        store.write_blob(Broken(DATA))
    assert blobs(store) == set()


def test_files_that_are_not_regular_are_refused_as_sources(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CacheUnusableError, match="regular"):
        store.write_blob(tmp_path / "fifo")
    with pytest.raises(NotFoundError):
        store.write_blob(tmp_path / "missing")


def test_the_disk_is_asked_before_and_while_writing(small_disk: Path) -> None:
    store = Store(small_disk / "models")
    with pytest.raises(NoSpaceError, match="free some space"):
        store.write_blob(io.BytesIO(b"x"), expected_size=10 << 20)
    with pytest.raises(NoSpaceError):
        store.write_blob(io.BytesIO(os.urandom(3 << 20)))
    assert blobs(store) == set()
    assert store.write_blob(io.BytesIO(DATA)).created


def test_a_full_disk_never_breaks_a_manifest(small_disk: Path) -> None:
    store = Store(small_disk / "models")
    digest = put(store)
    (small_disk / "filler").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
    big = [layer("license", Digest.of(bytes([index])), 1) for index in range(60)]
    with pytest.raises(NoSpaceError):
        store.write_manifest(NAME, build_manifest(Layer(CONFIG_TYPE, DIGEST, 1), big))
    assert store.manifest(NAME).digest == digest
    assert list((store.path / ".paddock" / "tmp").iterdir()) == []


WRITER = """
import sys, time
from pathlib import Path
from paddock_runner.store.store import Store
class Slow:
    def __init__(self): self.sent = 0
    def read(self, size):
        self.sent += 1
        if self.sent > 3:
            print("writing", flush=True)
            time.sleep(60)
        return b"x" * 1000
def check(stream):
    print("checking", flush=True)
    time.sleep(60)
store = Store(Path(sys.argv[1]))
if sys.argv[2] == "write":
    store.write_blob(Slow())
with store.digest_lock(__import__("paddock_runner.core.digest", fromlist=["Digest"]).Digest("0" * 64)):
    store.write_blob(Path(sys.argv[3]), check=check)
"""


@pytest.mark.parametrize("moment", ["write", "check"])
def test_kill_9_leaves_nothing_under_a_final_name(store: Store, gguf_file: Path, moment: str) -> None:
    command = [sys.executable, "-c", WRITER, str(store.path), moment, str(gguf_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    left = blobs(store)
    assert left
    assert all(name.startswith("tmp-") for name in left)
    # The dead owner's locks are free, and its file is swept once it is old, not before.
    with store.digest_lock(Digest("0" * 64), timeout=1.0):
        pass
    assert store.sweep() == 0
    for name in left:
        os.utime(store.path / "blobs" / name, (0, time.time() - 7200))
    assert store.sweep() == 1
    assert blobs(store) == set()


def test_the_sweeper_spares_a_living_writer_and_strangers(store: Store) -> None:
    put(store)
    (store.path / "blobs" / "sha256-abc-partial").write_bytes(b"of another program")
    with store.incoming(DIGEST, None) as writer:
        writer.write(b"half")
        for path in (store.path / "blobs").iterdir():
            os.utime(path, (0, 0))
        assert store.sweep() == 0
    (store.path / "blobs" / "tmp-dead").touch()
    os.utime(store.path / "blobs" / "tmp-dead", (0, 0))
    assert store.sweep() == 1
    assert "sha256-abc-partial" in blobs(store)


def test_what_comes_in_and_is_not_committed_is_gone(store: Store) -> None:
    with store.incoming(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:4000])
    assert blobs(store) == set()
    with store.incoming(DIGEST, len(DATA)) as writer:
        writer.write(b"wrong")
        writer.restart()
        writer.write(DATA)
        assert store.commit(writer).created
    assert blobs(store) == {DIGEST.file_name}
    with store.incoming(Digest("0" * 64), None) as writer:
        writer.write(b"wrong")
        with pytest.raises(DigestMismatchError):
            store.commit(writer)
    assert blobs(store) == {DIGEST.file_name}


@pytest.mark.parametrize("same_size", [True, False])
def test_a_corrupt_blob_is_detected_and_replaced(store: Store, same_size: bool) -> None:
    store.write_blob(io.BytesIO(DATA))
    path = store.blob_path(DIGEST)
    with path.open("r+b") as stream:
        stream.write(b"XX")
        if not same_size:
            stream.truncate(100)
    assert not store.has_verified(DIGEST)
    with pytest.raises(DigestMismatchError, match=DIGEST.hex):
        store.verify_blob(DIGEST)
    assert store.write_blob(io.BytesIO(DATA)).created
    assert store.verify_blob(DIGEST) == len(DATA)


def test_a_changed_time_means_hashing_again(store: Store) -> None:
    store.write_blob(io.BytesIO(DATA))
    os.utime(store.blob_path(DIGEST))
    assert not store.has_verified(DIGEST)
    seen: list[tuple[int, int]] = []
    store.verify_blob(DIGEST, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(DATA), len(DATA))
    seen.clear()
    store.verify_blob(DIGEST, lambda done, total: seen.append((done, total)))
    assert seen == []


@pytest.mark.parametrize("marker", [b"", b"{", b"[]", b"null", b'{"size":1}'])
def test_a_broken_marker_proves_nothing(store: Store, marker: bytes) -> None:
    store.write_blob(io.BytesIO(DATA))
    (store.path / ".paddock" / "verified" / DIGEST.hex).write_bytes(marker)
    assert not store.has_verified(DIGEST)
    assert store.verify_blob(DIGEST) == len(DATA)
    assert store.has_verified(DIGEST)


@pytest.mark.parametrize("kind", ["symlink", "folder", "fifo"])
def test_something_else_in_the_place_of_a_blob(store: Store, tmp_path: Path, kind: str) -> None:
    put(store)
    path = store.blob_path(DIGEST)
    path.unlink()
    (tmp_path / "outside").write_bytes(DATA)
    if kind == "symlink":
        path.symlink_to(tmp_path / "outside")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(CacheUnusableError, match="not a regular file"):
        store.verify_blob(DIGEST)


def test_names_are_found_without_case_and_keep_their_spelling(store: Store) -> None:
    put(store, "SmolLM2:135M")
    assert str(store.manifest(ModelName.parse("smollm2:135m")).name) == "SmolLM2:135M"
    put(store, "smollm2:135m", b"newer")
    assert [str(item.name) for item in store.list()] == ["SmolLM2:135M"]


def test_list_is_newest_first_and_survives_corruption(store: Store) -> None:
    put(store, "old")
    put(store, "new", b"other")
    put(store, "broken", b"third")
    manifests = store.path / "manifests" / "registry.ollama.ai" / "library"
    os.utime(manifests / "old" / "latest", (1, 1))
    (manifests / "broken" / "latest").write_text("{")
    (manifests / "old" / "..hidden").write_text("no name")
    (store.path / "manifests" / "stray").write_text("no folder")
    assert [str(item.name) for item in store.list()] == ["new:latest", "old:latest"]
    with pytest.raises(CacheUnusableError, match="corrupt"):
        store.manifest(ModelName.parse("broken"))


def test_an_empty_or_absent_folder_is_an_empty_store(store: Store) -> None:
    assert store.list() == ()
    with pytest.raises(NotFoundError, match="x:1"):
        store.manifest(NAME)
    assert not store.path.exists()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnusableError, match="not a folder"):
        Store(tmp_path / "file")


def test_a_pin_keeps_manifest_and_blobs_and_is_hidden(store: Store) -> None:
    digest = put(store)
    store.pin(digest, store.manifest(NAME).data)
    store.pin(digest, store.manifest(NAME).data)
    assert store.delete(NAME) == ()
    assert store.list() == ()
    assert store.manifest_by_digest(digest).is_pin
    assert store.verify_blob(DIGEST) == len(DATA)
    with pytest.raises(DigestMismatchError):
        store.pin(digest, b"other bytes")


def test_a_manifest_is_found_by_digest_in_spite_of_a_bad_pin(store: Store) -> None:
    digest = put(store)
    store.pin(digest, store.manifest(NAME).data)
    pin = store.path / "manifests" / "pins.paddock.dev" / "sha256" / digest.hex / "latest"
    pin.write_bytes(build_manifest(Layer(CONFIG_TYPE, DIGEST, 1), [layer("model", DIGEST, 1)]))
    assert str(store.manifest_by_digest(digest).name) == "x:1"
    pin.write_bytes(b"{")
    assert store.manifest_by_digest(digest).digest == digest
    with pytest.raises(NotFoundError):
        store.manifest_by_digest(Digest("0" * 64))


def test_delete_removes_only_what_nobody_references(store: Store) -> None:
    put(store, "a")
    put(store, "b", b"shared by b and c")
    store.copy(ModelName.parse("b"), ModelName.parse("c"))
    before = blobs(store)
    assert store.delete(ModelName.parse("b")) == ()
    assert blobs(store) == before
    removed = store.delete(ModelName.parse("C"))
    assert Digest.of(b"shared by b and c") in removed
    assert blobs(store) == before - {digest.file_name for digest in removed}
    assert [str(item.name) for item in store.list()] == ["a:latest"]
    assert not (store.path / "manifests" / "registry.ollama.ai" / "library" / "c").exists()
    with pytest.raises(NotFoundError):
        store.delete(ModelName.parse("c"))


def test_delete_keeps_all_blobs_while_a_manifest_is_corrupt(store: Store) -> None:
    put(store, "a")
    put(store, "b", b"other")
    (store.path / "manifests" / "registry.ollama.ai" / "library" / "b" / "latest").write_text("{")
    before = blobs(store)
    assert store.delete(ModelName.parse("a")) == ()
    assert blobs(store) == before
    assert store.delete(ModelName.parse("b")) == ()


def test_delete_waits_for_a_writer(store: Store) -> None:
    put(store)
    began, order = threading.Event(), []

    def remove() -> None:
        began.set()
        store.delete(NAME)
        order.append("deleted")

    with store.writing():
        thread = threading.Thread(target=remove)
        thread.start()
        assert began.wait(5)
        put(store, "y")
        order.append("written")
    thread.join(10)
    assert order == ["written", "deleted"]
    assert store.verify_blob(DIGEST) == len(DATA)


def test_copy_needs_a_source(store: Store) -> None:
    with pytest.raises(NotFoundError):
        store.copy(NAME, ModelName.parse("y"))


def test_a_lock_is_for_one_and_ends_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.lock"
    with file_lock(path, timeout=1):
        with pytest.raises(LockTimeoutError) as caught, file_lock(path, timeout=0.05):
            pass
        assert caught.value.retryable
    assert not path.exists()
    with file_lock(path, shared=True, timeout=1), file_lock(path, shared=True, timeout=1):
        pass


def test_a_read_only_store_reads_and_never_writes(store: Store) -> None:
    digest = put(store)
    for path in (store.path / ".paddock" / "verified").iterdir():
        path.unlink()
    before = sorted(str(path) for path in store.path.rglob("*"))
    closed = Store(store.path, read_only=True)
    assert closed.manifest_by_digest(digest).digest == digest
    assert len(closed.list()) == 1
    data = closed.manifest(NAME).data
    for write in (
        lambda: closed.write_blob(io.BytesIO(DATA)),
        lambda: closed.write_manifest(NAME, data),
        lambda: closed.pin(digest, data),
        lambda: closed.copy(NAME, NAME),
        lambda: closed.delete(NAME),
        closed.sweep,
        closed.writing,
        lambda: closed.digest_lock(digest),
        lambda: closed.resumable(digest),
        lambda: closed.incoming(digest, None),
        lambda: closed.fetching(digest, str),
    ):
        with pytest.raises(ReadOnlyError):
            write()
    assert closed.verify_blob(DIGEST) == len(DATA)
    assert sorted(str(path) for path in store.path.rglob("*")) == before


def test_a_read_only_file_system_still_serves(small_disk: Path) -> None:
    store = Store(small_disk / "models")
    digest = put(store)
    os.utime(store.blob_path(DIGEST))
    remount_read_only(small_disk)
    assert store.verify_blob(DIGEST) == len(DATA)
    assert store.manifest_by_digest(digest).digest == digest
    with pytest.raises(ReadOnlyError):
        store.pin(digest, store.manifest(NAME).data)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1e15, "9999-12-31T23:59:59Z"), (-1e15, "1970-01-01T00:00:00Z"), (0.0, "1970-01-01T00:00:00Z")],
)
def test_times_that_no_calendar_has_are_shown(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


def test_the_sweeper_finds_a_leftover_among_any_number_of_blobs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock_runner.store.blobs._MAX_SWEPT", 3)
    for number in range(20):
        store.write_blob(io.BytesIO(bytes([number])))
    leftover = store.path / "blobs" / "tmp-leftover"
    leftover.write_bytes(b"x")
    os.utime(leftover, (0, 0))
    assert store.sweep() == 1
    assert not leftover.exists()


def test_locks_of_the_dead_go_and_those_of_the_living_stay(store: Store) -> None:
    dead, living = Digest("1" * 64), Digest("2" * 64)
    with store.digest_lock(living):
        (store.path / ".paddock" / "locks" / f"{dead.hex}.lock").touch()
        with store.collecting():
            store.remove_free_locks()
            held = {path.name for path in (store.path / ".paddock" / "locks").iterdir()}
    assert held == {"store.lock", f"{living.hex}.lock"}
