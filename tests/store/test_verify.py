"""`store verify`, `store du` and `store show --verbose`: what the bytes of a folder are, and whether they are right."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.store.conftest import remount_read_only
from tests.support.gguf_maker import make_gguf

from paddock_runner.commands.store_verify import verify_command
from paddock_runner.core.digest import Digest
from paddock_runner.core.modelfile import parse_modelfile
from paddock_runner.core.names import ModelName
from paddock_runner.store import verify as module
from paddock_runner.store.collect import QUARANTINE_SECONDS, collect
from paddock_runner.store.create import create
from paddock_runner.store.errors import DigestMismatchError, NotFoundError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.partial import kept_journal
from paddock_runner.store.place import place
from paddock_runner.store.store import Store
from paddock_runner.store.usage import usage
from paddock_runner.store.verify import Checked, prepare_repair, verify


@pytest.fixture
def stored(store: Store, gguf_file: Path) -> StoredManifest:
    return add(store, gguf_file, "one", "SYSTEM one")


def add(store: Store, gguf: Path, name: str, more: str = "") -> StoredManifest:
    return create(store, ModelName.parse(name), parse_modelfile(f"FROM {gguf}\n{more}"), gguf.parent)


def weights(stored: StoredManifest) -> Digest:
    return stored.manifest.of_kind("model")[0].digest


def damage(path: Path) -> None:
    """One byte changes, and no time that a person sees."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def forge_marker(store: Store, digest: Digest) -> None:
    """As if the bytes had rotted on the disk: no time of the file tells of it."""
    facts = store.blob_path(digest).stat()
    marker = {
        "device": facts.st_dev, "inode": facts.st_ino, "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns, "ctime_ns": facts.st_ctime_ns,
    }  # fmt: skip
    (store.path / ".paddock" / "verified" / digest.hex).write_text(json.dumps(marker))
    assert store.has_verified(digest)


def problems(store: Store, *names: str) -> dict[Digest, Checked]:
    return {item.digest: item for item in verify(store, map(ModelName.parse, names)) if item.problem}


def test_a_sound_folder(store: Store, stored: StoredManifest) -> None:
    found = list(verify(store))
    assert {item.digest for item in found} == {layer.digest for layer in stored.manifest.blobs}
    assert all((item.problem, item.names) == ("", (stored.name,)) for item in found)
    assert sum(item.size for item in found) == sum(layer.size for layer in stored.manifest.blobs)


def test_markers_are_not_believed_and_damage_leaves_its_name(store: Store, stored: StoredManifest) -> None:
    digest = weights(stored)
    damage(store.blob_path(digest))
    forge_marker(store, digest)
    (item,) = problems(store).values()
    assert item.digest == digest
    assert "its bytes hash to sha256:" in item.problem
    assert item.quarantine is not None
    assert item.quarantine.parent == store.path / ".paddock" / "quarantine"
    assert item.quarantine.stat().st_size == item.size
    assert not store.blob_path(digest).exists()
    assert not store.has_verified(digest)
    with pytest.raises(NotFoundError):
        load_model(store, stored)
    assert problems(store)[digest].problem == "it is missing"


def test_the_bytes_come_back_under_their_name(store: Store, stored: StoredManifest, gguf_file: Path) -> None:
    damage(store.blob_path(weights(stored)))
    assert problems(store)
    place(store, gguf_file, weights(stored), "Copy", None, None)
    assert problems(store) == {}
    assert load_model(store, stored).digest == stored.digest


def test_only_the_models_that_were_named(store: Store, stored: StoredManifest, tmp_path: Path) -> None:
    other = add(store, make_gguf(tmp_path / "other.gguf", seed=3), "two")
    damage(store.blob_path(weights(other)))
    assert problems(store, "one") == {}
    assert problems(store, "two").keys() == {weights(other)}
    with pytest.raises(NotFoundError):
        problems(store, "three")


def test_shared_bytes_are_read_once_and_tell_all_their_models(
    store: Store, stored: StoredManifest, gguf_file: Path
) -> None:
    add(store, gguf_file, "two", "SYSTEM two")
    store.pin(stored.digest, stored.data)
    damage(store.blob_path(weights(stored)))
    (item,) = problems(store).values()
    assert {str(name).split("/")[0] for name in item.names} == {"one:latest", "two:latest", "pins.paddock.dev"}


def test_what_is_not_a_file(store: Store, stored: StoredManifest, gguf_file: Path) -> None:
    path = store.blob_path(weights(stored))
    path.unlink()
    path.symlink_to(gguf_file)
    (item,) = problems(store).values()
    assert item.quarantine is not None
    assert item.quarantine.is_symlink()
    assert not path.is_symlink()
    path.symlink_to(store.path / "nowhere")
    assert [item.quarantine is not None for item in problems(store).values()] == [True]
    assert gguf_file.exists()
    path.mkdir()
    assert [item.quarantine is not None for item in problems(store).values()] == [True]


def test_blobs_that_nobody_needs_are_looked_at_too(store: Store, stored: StoredManifest) -> None:
    stray = Digest.of(b"stray")
    store.blob_path(stray).write_bytes(b"other bytes")
    assert problems(store, "one") == {}
    (item,) = problems(store).values()
    assert (item.digest, item.names) == (stray, ())


def test_a_size_that_a_manifest_invents(store: Store, stored: StoredManifest) -> None:
    lie = stored.data.replace(str(stored.manifest.of_kind("model")[0].size).encode(), b"12345")
    store.write_manifest(ModelName("liar"), lie)
    assert "a manifest says 12345" in problems(store)[weights(stored)].problem
    assert store.blob_path(weights(stored)).exists()


def test_a_file_that_was_replaced_meanwhile_stays(
    store: Store, stored: StoredManifest, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = weights(stored)
    damage(store.blob_path(digest))
    real = module._quarantine

    def late(store: Store, digest: Digest, handle: int | None) -> Path | None:
        shutil.copy(gguf_file, store.path / "new")
        (store.path / "new").rename(store.blob_path(digest))
        return real(store, digest, handle)

    monkeypatch.setattr(module, "_quarantine", late)
    (item,) = problems(store).values()
    assert item.quarantine is None
    assert store.verify_blob(digest) == gguf_file.stat().st_size


def test_a_read_only_folder_is_only_read(small_disk: Path, tmp_path: Path, gguf_file: Path) -> None:
    store = Store(small_disk / "models")
    digest = weights(add(store, gguf_file, "one"))
    damage(store.blob_path(digest))
    remount_read_only(small_disk)
    for opened in (Store(store.path, read_only=True), store):
        (item,) = problems(opened).values()
        assert (item.digest, item.quarantine) == (digest, None)
        assert store.blob_path(digest).exists()


def test_a_quarantined_blob_goes_after_a_week(store: Store, stored: StoredManifest) -> None:
    damage(store.blob_path(weights(stored)))
    (item,) = problems(store).values()
    collect(store, {stored.digest}, 0)
    assert item.quarantine is not None
    assert item.quarantine.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paddock_runner.store.collect.QUARANTINE_SECONDS", -1.0)
        collect(store, {stored.digest}, 0)
    assert not item.quarantine.exists()
    assert QUARANTINE_SECONDS >= 24 * 3600


def test_a_folder_in_the_place_of_a_blob_goes_too(store: Store, stored: StoredManifest) -> None:
    folder = store.blob_path(Digest("a" * 64))
    folder.mkdir()
    (folder / "file").write_bytes(b"x")
    (item,) = problems(store).values()
    assert item.quarantine is not None
    (store.path / ".paddock" / "verified" / "folder").mkdir()
    (store.path / ".paddock" / "journals").mkdir(exist_ok=True)
    (store.path / ".paddock" / "journals" / "folder").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paddock_runner.store.collect.QUARANTINE_SECONDS", -1.0)
        collect(store, {stored.digest}, 0)
    assert not item.quarantine.exists()
    assert not list((store.path / ".paddock").glob("*/folder"))
    assert problems(store) == {}


def test_a_manifest_that_cannot_be_read_is_no_success(store: Store, stored: StoredManifest) -> None:
    path = store.path / "manifests" / "h" / "n" / "m" / "t"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    told: list[Mapping[str, Any]] = []
    assert verify_command(store, [], False, told.append) == 1
    assert [line["name"] for line in told if "error" in line] == ["h/n/m:t"]
    assert (told[-1]["status"], told[-1]["damaged"]) == ("damaged", 1)
    assert verify_command(store, [stored.name], False, told.append) == 0


STEP = 1000


def download(store: Store, data: bytes, offsets: Iterable[int]) -> None:
    """What the download engine does, without a network."""
    with store.resumable(Digest.of(data), len(data)) as partial:
        for offset in offsets:
            partial.write(offset, [data[offset : offset + STEP]])
        partial.advance()
        if partial.complete:
            store.commit(partial)


@pytest.mark.parametrize("what", ["a byte", "the end", "more"])
def test_only_damaged_pieces_of_a_download_are_fetched_again(store: Store, what: str) -> None:
    data = random.Random(1).randbytes(20 * STEP + 7)
    download(store, data, range(0, len(data), STEP))
    path = store.blob_path(Digest.of(data))
    with path.open("r+b") as stream:
        stream.seek({"a byte": 5 * STEP + 3, "the end": 0, "more": len(data)}[what])
        stream.write(b"?")
        if what == "the end":
            stream.seek(0)
            stream.write(data[:1])
            stream.truncate(19 * STEP + 1)
    (item,) = problems(store).values()
    prepare_repair(store, item)
    assert item.quarantine is not None
    assert not item.quarantine.exists()
    expected = {"a byte": [(5 * STEP, 6 * STEP)], "the end": [(19 * STEP, len(data))], "more": []}[what]
    with store.resumable(Digest.of(data), None) as partial:
        while not partial.complete:
            partial.advance()
            for start, end in partial.gaps():
                assert (start, end) in [
                    (at, min(at + STEP, len(data))) for low, high in expected for at in range(low, high, STEP)
                ]
                partial.write(start, [data[start:end]])
        store.commit(partial)
    assert path.read_bytes() == data
    assert problems(store) == {}


def test_a_file_with_another_name_elsewhere_is_not_mended(store: Store, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3 * STEP)
    download(store, data, range(0, len(data), STEP))
    os.link(store.blob_path(Digest.of(data)), tmp_path / "elsewhere")
    damage(tmp_path / "elsewhere")
    (item,) = problems(store).values()
    prepare_repair(store, item)
    assert not store.partial_path(Digest.of(data)).exists()


def test_a_link_that_was_planted_is_not_written_through_by_a_repair(store: Store, tmp_path: Path) -> None:
    data, victim = random.Random(1).randbytes(3 * STEP), tmp_path / "victim"
    victim.write_bytes(b"precious")
    download(store, data, range(0, len(data), STEP))
    damage(store.blob_path(Digest.of(data)))
    (item,) = problems(store).values()
    partial = store.partial_path(Digest.of(data))
    partial.with_name(f"{partial.name}.journal").symlink_to(victim)
    prepare_repair(store, item)
    assert victim.read_bytes() == b"precious"
    with store.resumable(Digest.of(data)) as unfinished:
        assert unfinished.done == len(data)


def test_journals_go_with_their_blobs(store: Store) -> None:
    data = random.Random(1).randbytes(3 * STEP)
    download(store, data, range(0, len(data), STEP))
    kept = kept_journal(store.path / "blobs", Digest.of(data))
    assert kept.is_file()
    (store.path / "manifests").mkdir(exist_ok=True)
    collect(store, set(), 3600)
    assert kept.is_file()
    collect(store, set(), 0)
    assert not kept.exists()


def test_without_a_journal_all_is_fetched_again(store: Store, stored: StoredManifest) -> None:
    damage(store.blob_path(weights(stored)))
    (item,) = problems(store).values()
    prepare_repair(store, item)
    assert item.quarantine is not None
    assert item.quarantine.exists()
    assert not store.partial_path(weights(stored)).exists()


def test_usage(store: Store, stored: StoredManifest, gguf_file: Path, tmp_path: Path) -> None:
    add(store, gguf_file, "two", "SYSTEM two, longer")
    store.pin(stored.digest, stored.data)
    hidden = add(store, make_gguf(tmp_path / "hidden.gguf", seed=9), "hidden")
    store.pin(hidden.digest, hidden.data)
    with store.collecting():
        store.remove_root(hidden.name)
    (store.path / "blobs" / Digest.of(b"x").file_name).write_bytes(b"12345")
    (store.path / "blobs" / ("partial-" + "0" * 64)).write_bytes(b"123")
    (store.path / "manifests" / "h" / "n" / "m").mkdir(parents=True)
    (store.path / "manifests" / "h" / "n" / "m" / "t").write_text("{")
    scratch = store.working_folder(Digest.of(b"a conversion"))
    scratch.mkdir(parents=True)
    (scratch / "converted.gguf").write_bytes(b"1234567")
    (scratch / "part-00001-of-00001.gguf").symlink_to(gguf_file)
    (scratch / "placed").hardlink_to(store.blob_path(weights(stored)))
    store.working_folder(Digest.of(b"planted")).symlink_to(tmp_path)
    found = usage(store)
    size = gguf_file.stat().st_size
    one, two = found["models"]
    assert (one["name"], two["name"], one["digest"]) == ("one:latest", "two:latest", stored.digest.hex)
    assert one["size"] == sum(layer.size for layer in stored.manifest.blobs)
    assert (one["own"], two["own"]) == (3, len("two, longer"))
    assert one["shared"] == two["shared"] > size
    assert found["hidden"] >= size
    assert (found["unreferenced"], found["partial"], found["working"], found["quarantine"]) == (5, 3, 7, 0)
    assert found["named"] == size + found["models"][0]["shared"] - size + one["own"] + two["own"]
    assert found["total"] == 7 + sum(path.stat().st_size for path in (store.path / "blobs").iterdir())
    assert found["unreadable"] == ["h/n/m:t"]
    assert usage(Store(tmp_path / "nothing"))["total"] == 0


def run(models: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "paddock_runner", "store", "--models", str(models), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_programs(store: Store, stored: StoredManifest, gguf_file: Path) -> None:
    code, lines = run(store.path, "verify")
    assert (code, lines[-1]["status"], lines[-1]["damaged"]) == (0, "success", 0)
    assert lines[-1]["checked"] == len(lines) - 1 == 3
    damage(store.blob_path(weights(stored)))
    code, lines = run(store.path, "verify", "one")
    bad = next(line for line in lines if line["status"] == "damaged" and "digest" in line)
    assert code == 1
    assert (bad["digest"], bad["models"]) == (str(weights(stored)), ["one:latest"])
    assert Path(bad["quarantine"]).is_file()
    assert lines[-1] == {"status": "damaged", "checked": 3, "bytes": lines[-1]["bytes"], "damaged": 1, "repaired": 0}
    code, (told,) = run(store.path, "verify", "nope")
    assert (code, told["reason"]) == (1, "NotFound")
    code, (told,) = run(store.path, "du")
    assert (code, told["quarantine"]) == (0, gguf_file.stat().st_size)


def test_a_verbose_show(store: Store, stored: StoredManifest) -> None:
    _, (plain,) = run(store.path, "show", "one")
    _, (verbose,) = run(store.path, "show", "one", "--verbose")
    assert set(verbose) - set(plain) == {"digest", "size", "pinned", "blobs"}
    assert (verbose["digest"], verbose["pinned"]) == (stored.digest.hex, False)
    assert [(item["role"], item["verified"], item["links"]) for item in verbose["blobs"][:2]] == [
        ("model", True, 1), ("system", True, 1)
    ]  # fmt: skip
    store.pin(stored.digest, stored.data)
    store.blob_path(weights(stored)).with_name("x").hardlink_to(store.blob_path(weights(stored)))
    _, (verbose,) = run(store.path, "show", "one", "--verbose")
    assert verbose["pinned"]
    assert (verbose["blobs"][0]["links"], verbose["blobs"][0]["verified"]) == (2, False)


def test_damage_is_what_a_server_sees(store: Store, stored: StoredManifest) -> None:
    damage(store.blob_path(weights(stored)))
    with pytest.raises(DigestMismatchError):
        load_model(store, stored)
