"""Files of this machine as blobs: shared or copied, hashed once, and never what somebody planted."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.store.conftest import remount_read_only

from paddock_runner.core.digest import Digest
from paddock_runner.store import place as module
from paddock_runner.store.errors import (
    CacheUnusableError,
    DigestMismatchError,
    InvalidModelError,
    NotFoundError,
    NotGGUFError,
    ReadOnlyError,
    StoreError,
)
from paddock_runner.store.gguf import check_gguf
from paddock_runner.store.place import ChangedError, Placed, place
from paddock_runner.store.store import Store
from paddock_runner.store.writer import CHUNK_BYTES

OTHER = Digest.of(b"other")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "outside.bin"
    path.write_bytes(os.urandom(3 * CHUNK_BYTES + 17))
    return path


class Reads:
    """Counts what is read through a progress callback."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))

    @property
    def hashed(self) -> bool:
        return len(self.calls) > 1


def bring(store: Store, path: Path, digest: Digest | None = None, way: Any = "Link", **more: Any) -> Placed:
    return place(store, path, digest, way, more.get("check"), more.get("progress"))


def leftovers(store: Store) -> list[str]:
    folder = store.path / "blobs"
    return [item.name for item in folder.iterdir() if not item.name.startswith("sha256-")] if folder.exists() else []


@pytest.mark.parametrize("demanded", [True, False])
def test_a_link_shares_the_file_and_is_known_at_once(store: Store, file: Path, demanded: bool) -> None:
    digest = Digest.of(file.read_bytes())
    placed = bring(store, file, digest if demanded else None)
    assert (placed.digest, placed.size, placed.created, placed.how) == (digest, file.stat().st_size, True, "linked")
    assert store.blob_path(digest).samefile(file)
    assert Store(store.path).has_verified(digest), "no second hashing"
    assert leftovers(store) == []


def test_a_copy_is_a_file_of_its_own(store: Store, file: Path) -> None:
    file.chmod(0o600)
    placed = bring(store, file, way="Copy")
    assert placed.how in ("cloned", "copied")
    path = store.blob_path(placed.digest)
    assert not path.samefile(file)
    assert path.read_bytes() == file.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("way", ["Link", "Copy"])
def test_a_file_is_hashed_once(store: Store, file: Path, way: str) -> None:
    first, again, changed = Reads(), Reads(), Reads()
    placed = bring(store, file, way=way, progress=first)
    assert first.hashed
    repeated = bring(Store(store.path), file, way=way, progress=again)
    assert (repeated.digest, repeated.how, again.calls) == (placed.digest, "held", [(placed.size, placed.size)])
    with file.open("r+b") as stream:
        stream.write(b"changed")
    other = bring(store, file, way=way, progress=changed)
    assert changed.hashed
    assert other.digest == Digest.of(file.read_bytes()) != placed.digest


def test_a_demanded_blob_that_is_held_is_not_read(store: Store, file: Path, tmp_path: Path) -> None:
    digest = bring(store, file, way="Copy").digest
    assert bring(store, tmp_path / "not there", digest).how == "held"


def test_one_link_more_costs_one_hashing(store: Store, file: Path) -> None:
    digest = bring(store, file).digest
    os.link(file, file.with_name("third"))
    assert not store.has_verified(digest)
    reads = Reads()
    assert bring(store, file, digest, progress=reads).how == "held"
    assert reads.hashed
    assert store.has_verified(digest)


def test_somebody_writes_through_the_hard_link(store: Store, file: Path) -> None:
    digest = bring(store, file).digest
    with file.open("r+b") as stream:
        stream.write(b"damage")
    assert not store.has_verified(digest)
    with pytest.raises(DigestMismatchError):
        store.verify_blob(digest)
    good = file.with_name("good")
    good.write_bytes(store.blob_path(digest).read_bytes())
    assert bring(store, file).digest == Digest.of(good.read_bytes()), "the damaged file is another one"


def test_times_that_were_set_back_do_not_hide_a_change(store: Store, file: Path) -> None:
    digest = bring(store, file).digest
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"damage")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not store.has_verified(digest)


def test_a_damaged_blob_is_replaced_by_the_good_file(store: Store, file: Path) -> None:
    digest = bring(store, file, way="Copy").digest
    store.blob_path(digest).write_bytes(b"replaced under its name")
    assert bring(store, file, digest).how == "linked"
    assert store.verify_blob(digest) == file.stat().st_size


def test_other_bytes_than_demanded(store: Store, file: Path) -> None:
    for way in ("Link", "Copy"):
        with pytest.raises(DigestMismatchError, match=str(OTHER)):
            bring(store, file, OTHER, way)
    bring(store, file)
    with pytest.raises(DigestMismatchError):
        bring(store, file, OTHER)
    assert leftovers(store) == []
    assert not store.blob_path(OTHER).exists()


@pytest.mark.parametrize("way", ["Link", "Copy"])
def test_the_check_sees_the_bytes_before_they_have_a_name(store: Store, file: Path, gguf_file: Path, way: str) -> None:
    with pytest.raises(NotGGUFError):
        bring(store, file, way=way, check=check_gguf)
    assert list((store.path / "blobs").iterdir()) == []
    own = shutil.copy(gguf_file, file.with_name("own.gguf"))
    assert bring(store, own, way=way, check=check_gguf).created
    assert bring(store, own, way=way, check=check_gguf).how == "held"


def plant(folder: Path, file: Path) -> dict[str, Path]:
    (folder / "link").symlink_to(file)
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "inner").mkdir()
    (folder / "inner" / "x.bin").write_bytes(b"x")
    (folder / "way").symlink_to(folder / "inner")
    os.mkfifo(folder / "fifo")
    return {
        "link": folder / "link",
        "dangling": folder / "dangling",
        "folder of links": folder / "way" / "x.bin",
        "fifo": folder / "fifo",
        "folder": folder / "inner",
        "device": Path("/dev/null"),
    }


@pytest.mark.parametrize("kind", ["link", "dangling", "folder of links", "fifo", "folder", "device"])
def test_links_and_special_files_are_refused(store: Store, file: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(CacheUnusableError, match=r"symbolic link|not a regular file"):
        bring(store, plant(tmp_path, file)[kind])
    assert leftovers(store) == []


def test_a_file_of_the_store_itself_is_taken_over_any_way(store: Store, tmp_path: Path) -> None:
    store.path.mkdir()
    (store.path / "made").write_bytes(b"made here")
    (tmp_path / "alias").symlink_to(store.path)
    alias = Store(tmp_path / "alias")
    assert bring(alias, alias.path / "made").how == "linked"


def test_a_file_that_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        bring(store, tmp_path / "nope")


def test_a_planted_link_in_the_place_of_the_blob_is_replaced(store: Store, file: Path, tmp_path: Path) -> None:
    digest, secret = Digest.of(file.read_bytes()), tmp_path / "secret"
    secret.write_text("secret")
    store.blob_path(digest).parent.mkdir(parents=True)
    store.blob_path(digest).symlink_to(secret)
    bring(store, file)
    assert not store.blob_path(digest).is_symlink()
    assert secret.read_text() == "secret"


def refusing(number: int, *names: str) -> dict[str, Callable[..., int]]:
    def refuse(source: int, target: Path) -> int:
        raise OSError(number, os.strerror(number))

    return dict.fromkeys(names, refuse)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_linking_is_impossible_it_is_copied_and_told(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name, method in refusing(number, "_link", "_clone").items():
        monkeypatch.setattr(module, name, method)
    assert bring(store, file).how == "copied"
    assert store.has_verified(Digest.of(file.read_bytes()))


def test_a_disk_error_is_no_reason_to_copy(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_link", refusing(errno.EIO, "_link")["_link"])
    with pytest.raises(CacheUnusableError, match="error"):
        bring(store, file)


def test_another_volume(small_disk: Path, tmp_path: Path) -> None:
    store, file = Store(small_disk / "models"), tmp_path / "outside"
    file.write_bytes(b"x" * 1000)
    with pytest.raises(InvalidModelError, match=r"InPlace: .* another volume"):
        bring(store, file, way="InPlace")
    assert bring(store, file).how == "copied"
    file.write_bytes(os.urandom(2 << 20))
    with pytest.raises(StoreError) as caught:
        bring(store, file)
    assert caught.value.reason == "NoSpace"
    assert leftovers(store) == []


def test_in_place_is_a_hard_link(store: Store, file: Path) -> None:
    assert bring(store, file, way="InPlace").how == "linked"


def test_a_read_only_store(small_disk: Path, tmp_path: Path) -> None:
    store, file = Store(small_disk / "models"), tmp_path / "outside"
    file.write_bytes(b"x" * 1000)
    digest = bring(store, file).digest
    other = tmp_path / "other"
    other.write_bytes(b"y")
    with pytest.raises(ReadOnlyError):
        bring(Store(store.path, read_only=True), other)
    remount_read_only(small_disk)
    assert bring(store, file, digest).how == "held"
    with pytest.raises(ReadOnlyError):
        bring(store, other)


@pytest.mark.parametrize("way", ["Link", "Copy"])
@pytest.mark.parametrize("what", ["write", "grow", "cut"])
def test_a_file_that_changes_while_it_is_read(store: Store, file: Path, way: str, what: str) -> None:
    done = False

    def disturb(*_: int) -> None:
        nonlocal done
        if done:
            return
        done = True
        with file.open("r+b") as stream:
            stream.seek(0, os.SEEK_END if what == "grow" else os.SEEK_SET)
            stream.write(b"changed")
            if what == "cut":
                stream.truncate(CHUNK_BYTES + 5)

    with pytest.raises(ChangedError) as caught:
        bring(store, file, way=way, progress=disturb)
    assert caught.value.retryable
    assert [item for item in (store.path / "blobs").iterdir() if item.is_file()] == []


def test_many_at_the_same_time(store: Store, file: Path) -> None:
    results: list[Placed | StoreError] = []

    def work() -> None:
        try:
            results.append(bring(Store(store.path), file))
        except StoreError as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    digest = Digest.of(file.read_bytes())
    # Each link moves the time of the one file, which another's hashing may see as a change: it tries again.
    assert {type(item) for item in results} <= {Placed, ChangedError}
    assert bring(store, file).digest == digest
    assert store.verify_blob(digest)
    assert leftovers(store) == []


def test_what_is_known_of_a_file_may_be_damaged(store: Store, file: Path) -> None:
    digest = bring(store, file).digest
    (known,) = (store.path / ".paddock" / "known").iterdir()
    for junk in (b"", b"{", b"[]", b'{"digest":1}', b'{"version":1,"digest":"sha256:0"}', b"x" * 10_000):
        known.write_bytes(junk)
        assert bring(store, file).digest == digest
