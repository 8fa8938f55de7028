"""Garbage collection of real folders, and `paddock-runner collect` as a program."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from tests.store.conftest import remount_read_only
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import Layer, build_config, build_manifest, layer
from paddock_runner.core.names import HTTP_HOST, ModelName
from paddock_runner.store import collect as collecting_module
from paddock_runner.store import store as store_module
from paddock_runner.store.collect import collect
from paddock_runner.store.errors import CacheUnusableError, StoreError
from paddock_runner.store.gguf import read_gguf
from paddock_runner.store.locks import LockTimeoutError
from paddock_runner.store.manifests import pin_name
from paddock_runner.store.model import load_model, used_blobs
from paddock_runner.store.store import Store

HOUR = 3600.0


@pytest.fixture
def other_gguf(tmp_path: Path) -> Path:
    return make_gguf(tmp_path / "other.gguf", seed=7)


def add(store: Store, gguf: Path, name: str | None, pinned: bool = True) -> Digest:
    """A model in the store under a name of somebody's, under its pin, or both; returns its manifest's digest."""
    with store.writing():
        model = store.write_blob(gguf)
        config = store.write_blob(_stream(build_config({"model_family": gguf.stem})))
        manifest = build_manifest(
            Layer("application/vnd.docker.container.image.v1+json", config.digest, config.size),
            [layer("model", model.digest, model.size)],
        )
        if name is not None:
            store.write_manifest(ModelName.parse(name), manifest)
        if pinned:
            store.pin(Digest.of(manifest), manifest)
    return Digest.of(manifest)


def _stream(data: bytes) -> BinaryIO:
    return io.BytesIO(data)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours have passed since everything was written."""
    now = time.time
    monkeypatch.setattr(collecting_module, "time", SimpleNamespace(time=lambda: now() + 2 * HOUR))


def held(store: Store) -> set[str]:
    return {path.name for path in (store.path / "blobs").iterdir()}


def manifests(store: Store) -> set[str]:
    return {str(path.relative_to(store.path)) for path in (store.path / "manifests").rglob("*") if path.is_file()}


@pytest.mark.usefixtures("later")
def test_bytes_go_with_their_last_digest_and_not_before(store: Store, gguf_file: Path, other_gguf: Path) -> None:
    kept, dead = add(store, gguf_file, None), add(store, other_gguf, None)
    live_blobs = {item.digest.file_name for item in store.manifest_by_digest(kept).manifest.blobs}
    size = sum((store.path / "blobs" / name).stat().st_size for name in held(store) - live_blobs)
    assert collect(store, {kept, dead}, HOUR).names == ()
    assert len(held(store)) == 4
    found = collect(store, {kept}, HOUR)
    assert (found.names, len(found.blobs), found.size) == ((pin_name(dead),), 2, size)
    assert held(store) == live_blobs
    assert load_model(store, kept).digest == kept
    assert {path.name for path in (store.path / ".paddock" / "verified").iterdir()} == {
        item.digest.hex for item in used_blobs(store.manifest_by_digest(kept).manifest)
    }
    assert collect(store, {kept}, HOUR).size == 0, "a second time there is nothing to do"


@pytest.mark.usefixtures("later")
def test_names_of_people_keep_their_bytes(store: Store, gguf_file: Path) -> None:
    dead = add(store, gguf_file, "tiny:1b")
    assert collect(store, set(), HOUR).names == (pin_name(dead),)
    assert load_model(store, dead).digest == dead
    assert len(held(store)) == 2


@pytest.mark.usefixtures("later")
def test_a_file_fetched_by_url_goes_with_its_digest(store: Store, gguf_file: Path) -> None:
    digest = add(store, gguf_file, f"{HTTP_HOST}/sha256/{'0' * 64}", pinned=True)
    assert collect(store, {digest}, HOUR).names == ()
    assert len(collect(store, set(), HOUR).names) == 2
    assert held(store) == set()
    assert manifests(store) == set()


def test_what_is_young_stays(store: Store, gguf_file: Path) -> None:
    add(store, gguf_file, None)
    assert collect(store, set(), HOUR) == collect(store, set(), HOUR, dry_run=True)
    assert len(held(store)) == 2
    assert len(collect(store, set(), 0).blobs) == 2


def test_an_old_pin_that_was_pulled_again_is_young(store: Store, gguf_file: Path) -> None:
    digest = add(store, gguf_file, None)
    path = store.path.joinpath("manifests", *pin_name(digest).path_parts)
    os.utime(path, (1, 1))
    store.pin(digest, path.read_bytes())
    assert path.stat().st_mtime > time.time() - 60


@pytest.mark.usefixtures("later")
def test_leftovers_of_dead_writers_go_and_foreign_files_stay(store: Store, gguf_file: Path) -> None:
    live = add(store, gguf_file, None)
    blobs = store.path / "blobs"
    for name, age in {"tmp-old": 2, "partial-" + "1" * 64: 25, "partial-" + "2" * 64: 23}.items():
        (blobs / name).write_text("x")
        os.utime(blobs / name, (time.time() - age * HOUR,) * 2)
    foreign = {f"sha256-{'3' * 64}-partial", "README"}
    for name in foreign:
        (blobs / name).write_text("x")
    collect(store, {live}, HOUR)
    assert {name for name in held(store) if not name.startswith("sha256-") or "partial" in name} == {
        "partial-" + "2" * 64, *foreign
    }  # fmt: skip


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("where", ["registry.ollama.ai/library/bad/latest", "stray", "a/b", "a/b/c/d/e"])
def test_one_unreadable_manifest_and_nothing_is_removed(store: Store, gguf_file: Path, where: str) -> None:
    add(store, gguf_file, None)
    path = store.path / "manifests" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    before = held(store), manifests(store)
    with pytest.raises(CacheUnusableError, match="nobody knows which blobs it needs; nothing is removed"):
        collect(store, set(), HOUR)
    assert (held(store), manifests(store)) == before


@pytest.mark.usefixtures("later")
def test_folders_that_cannot_be_understood(store: Store, gguf_file: Path) -> None:
    digest = add(store, gguf_file, None)
    top = store.path / "manifests"
    pin = top.joinpath(*pin_name(digest).path_parts)
    wrong = top.joinpath(*pin_name(Digest.of(b"else")).path_parts)
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(pin.read_bytes())
    with pytest.raises(CacheUnusableError, match=f"its bytes hash to {digest}"):
        collect(store, set(), HOUR)
    wrong.unlink()
    (top / "loop").symlink_to(".")
    with pytest.raises(CacheUnusableError, match="too deep"):
        collect(store, set(), HOUR)
    (top / "loop").unlink()
    top.rename(store.path / "away")
    with pytest.raises(CacheUnusableError, match="is missing"):
        collect(store, set(), HOUR)
    assert len(held(store)) == 2
    with pytest.raises(CacheUnusableError, match="not a folder"):
        collect(Store(store.path / "typo"), set(), HOUR)
    assert not (store.path / "typo").exists()


@pytest.mark.usefixtures("later")
def test_a_manifest_at_an_odd_place_is_a_root(store: Store, gguf_file: Path) -> None:
    digest = add(store, gguf_file, None)
    pin = store.path.joinpath("manifests", *pin_name(digest).path_parts)
    (store.path / "manifests" / "copy").write_bytes(pin.read_bytes())
    assert collect(store, set(), HOUR).blobs == ()
    assert len(held(store)) == 2


def test_a_reader_keeps_what_it_has_open(store: Store, gguf_file: Path) -> None:
    add(store, gguf_file, None)
    path = store.blob_path(Digest.of(gguf_file.read_bytes()))
    with path.open("rb") as reader:
        collect(store, set(), 0)
        assert not path.exists()
        assert reader.read() == gguf_file.read_bytes()


def test_a_writer_is_waited_for(store: Store, gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, gguf_file, None)
    monkeypatch.setattr(store_module, "COLLECT_LOCK_SECONDS", 0.1)
    with store.writing(), pytest.raises(LockTimeoutError) as caught:
        collect(store, set(), 0)
    assert caught.value.retryable
    assert len(held(store)) == 2


def test_collections_race_writers_and_no_manifest_loses_its_bytes(store: Store, gguf_file: Path) -> None:
    """Without any age to protect them: whatever has a manifest has its bytes, at every moment."""
    add(store, gguf_file, None)
    problems: list[str] = []
    stop = threading.Event()

    def collecting() -> None:
        while not stop.is_set():
            collect(Store(store.path), set(), 0)

    def writing(number: int) -> None:
        for turn in range(15):
            mine = Store(store.path)
            with mine.writing():
                model = mine.write_blob(gguf_file)
                config = mine.write_blob(_stream(b"{}"))
                data = build_manifest(
                    layer("config", config.digest, config.size),
                    [layer("model", model.digest, model.size), layer(f"x{number}.{turn}", config.digest, 2)],
                )
                mine.require_blobs(mine.write_manifest(ModelName(f"m{number}-{turn}"), data).manifest.blobs)
            try:
                read_gguf(mine.blob_path(model.digest))
            except StoreError as error:
                problems.append(str(error))
            mine.delete(ModelName(f"m{number}-{turn}"))

    collector = threading.Thread(target=collecting)
    writers = [threading.Thread(target=writing, args=(number,)) for number in range(3)]
    for thread in [collector, *writers]:
        thread.start()
    for thread in writers:
        thread.join(60)
    stop.set()
    collector.join(10)
    assert problems == []


def run(models: Path, live: object, *arguments: str | Path) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    message = models.parent / "message"
    message.touch()
    command = [sys.executable, "-m", "paddock_runner", "collect", "--models", models, "--live", "env:PADDOCK_LIVE"]
    done = subprocess.run(
        [*command, "--termination-message", message, *arguments],
        env={**os.environ, "PADDOCK_LIVE": live if isinstance(live, str) else json.dumps(live)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    text = message.read_text()
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], json.loads(text) if text else {}


def test_the_program(store: Store, gguf_file: Path, other_gguf: Path) -> None:
    live, dead = add(store, gguf_file, None), add(store, other_gguf, None)
    lists = {"digests": [str(live)]}
    code, lines, _ = run(store.path, lists, "--min-age", "0", "--dry-run")
    *going, last = lines
    assert code == 0
    assert [line["event"] for line in going] == ["would-remove"] * 3
    assert going[0]["name"] == pin_name(dead).full
    assert len(held(store)) == 4
    code, lines, message = run(store.path, lists, "--min-age", "0")
    assert code == 0
    assert lines == [message] == [{"event": "collected", "pins": 1, "blobs": 2, "bytes": last["bytes"]}]
    assert last == {**message, "dryRun": True}
    assert message["bytes"] == sum(line.get("bytes", 0) for line in going) > 0
    assert load_model(store, live).digest == live
    assert run(store.path, lists)[1] == [{"event": "collected", "pins": 0, "blobs": 0, "bytes": 0}]


@pytest.mark.parametrize(
    ("live", "match"),
    [
        ("{", "the list of live digests"),
        ({"digests": ["sha256:0"]}, "digests: digest must look like"),
        ({"digests": []}, "--allow-empty"),
    ],
)
def test_a_list_that_cannot_be_trusted(store: Store, gguf_file: Path, live: object, match: str) -> None:
    add(store, gguf_file, None)
    code, lines, message = run(store.path, live, "--min-age", "0")
    assert (code, message["event"], message["reason"]) == (1, "error", "InvalidLiveList")
    assert match in message["message"]
    assert lines == [message]
    assert len(held(store)) == 2


def test_an_empty_list_must_be_meant(store: Store, gguf_file: Path) -> None:
    add(store, gguf_file, None)
    assert run(store.path, {"digests": []}, "--min-age", "0", "--allow-empty")[2]["pins"] == 1
    assert held(store) == set()


@pytest.mark.parametrize("arguments", [("--min-age", "-1"), ("--min-age", "nan"), ("--min-age", "x"), ("--nope",)])
def test_bad_usage(store: Store, arguments: tuple[str, ...]) -> None:
    assert run(store.path, {"digests": []}, *arguments)[0] == 2


def test_a_read_only_cache_is_refused(small_disk: Path, gguf_file: Path) -> None:
    store = Store(small_disk / "models")
    live = add(store, gguf_file, None)
    remount_read_only(small_disk)
    message = small_disk.parent / "verdict"
    code, lines, _ = run_with_message(store.path, {"digests": [str(live)]}, message)
    assert (code, lines[-1]["reason"], lines[-1]["retryable"]) == (1, "CacheUnusable", False)


def run_with_message(models: Path, live: object, message: Path) -> tuple[int, list[dict[str, Any]], str]:
    command = [sys.executable, "-m", "paddock_runner", "collect", "--models", models, "--live", "-"]
    done = subprocess.run(
        [*command, "--termination-message", message],
        input=json.dumps(live), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr
