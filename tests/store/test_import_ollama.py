"""`paddock-runner import-ollama`: another folder's models without copying them, the damaged ones left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.modelfile import parse_modelfile
from paddock_runner.core.names import ModelName
from paddock_runner.store.create import create
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store

Lines = list[dict[str, Any]]


@pytest.fixture
def ollama(tmp_path: Path, gguf_file: Path) -> Store:
    """A folder of another program: no files of ours in it."""
    folder = tmp_path / "ollama"
    store = Store(folder)
    for name, more in (("llama:1b", "SYSTEM one"), ("user/other:tag", "SYSTEM two")):
        create(store, ModelName.parse(name), parse_modelfile(f"FROM {gguf_file}\n{more}"), folder)
    create(store, ModelName.parse("split"), parse_modelfile(f"FROM {_split(tmp_path)}"), folder)
    subprocess.run(["rm", "-r", folder / ".paddock"], check=True)
    return store


def _split(folder: Path) -> Path:
    (folder / "parts").mkdir()
    return make_gguf(folder / "parts" / "s.gguf", seed=5, split_tensors=6)


def run(target: Path, source: Path, *names: str) -> tuple[int, Lines]:
    command = [sys.executable, "-m", "paddock_runner", "import-ollama", "--models", target, source, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def blobs(stored: StoredManifest) -> int:
    return sum(layer.size for layer in stored.manifest.blobs)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def test_everything_comes_over_and_nothing_is_copied(ollama: Store, store: Store) -> None:
    before = snapshot(ollama.path)
    code, lines = run(store.path, ollama.path)
    assert code == 0
    assert {line["name"] for line in lines if line["status"] == "imported"} == {
        "llama:1b", "user/other:tag", "split:latest"
    }  # fmt: skip
    unique = sum(path.stat().st_size for path in (ollama.path / "blobs").iterdir())
    last = lines[-1]
    assert (last["status"], last["imported"], last["failed"], last["copied"], last["cloned"]) == ("success", 3, 0, 0, 0)
    assert last["linked"] == unique
    assert snapshot(ollama.path) == before
    for stored in ollama.list():
        assert store.manifest(stored.name).data == stored.data
        assert load_model(store, stored.digest).digest == stored.digest
        for layer in stored.manifest.blobs:
            assert store.blob_path(layer.digest).samefile(ollama.blob_path(layer.digest))
            assert store.has_verified(layer.digest)
    code, lines = run(store.path, ollama.path)
    assert (code, lines[-1]["linked"], lines[-1]["imported"]) == (0, 0, 3)


def test_only_what_was_named(ollama: Store, store: Store) -> None:
    code, lines = run(store.path, ollama.path, "LLAMA:1b", "nope")
    assert code == 1
    assert [line.get("name") for line in lines] == ["llama:1b", "nope:latest", None]
    assert (lines[1]["reason"], lines[2]["status"], lines[2]["failed"]) == ("NotFound", "incomplete", 1)
    assert [str(item.name) for item in store.list()] == ["llama:1b"]


def test_a_damaged_model_is_told_and_the_others_come(ollama: Store, store: Store) -> None:
    system = ollama.manifest(ModelName.parse("user/other:tag")).manifest.of_kind("system")[0]
    ollama.blob_path(system.digest).write_bytes(b"tWo")
    weights = ollama.manifest(ModelName.parse("split")).manifest.of_kind("model")[1]
    ollama.blob_path(weights.digest).unlink()
    (ollama.path / "manifests" / "registry.ollama.ai" / "library" / "junk").mkdir()
    (ollama.path / "manifests" / "registry.ollama.ai" / "library" / "junk" / "latest").write_text("{")
    code, lines = run(store.path, ollama.path)
    assert code == 1
    failed = {line["name"]: line["reason"] for line in lines if "error" in line}
    assert failed == {
        "user/other:tag": "DigestMismatch", "split:latest": "NotFound", "junk:latest": "CacheUnusable"
    }  # fmt: skip
    assert [str(item.name) for item in store.list()] == ["llama:1b"]


def test_links_that_somebody_planted_are_not_followed(ollama: Store, store: Store, tmp_path: Path) -> None:
    stored = ollama.manifest(ModelName.parse("llama:1b"))
    path = ollama.blob_path(stored.manifest.config.digest)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    code, lines = run(store.path, ollama.path, "llama:1b")
    assert (code, lines[0]["reason"]) == (1, "CacheUnusable")
    assert "symbolic link" in lines[0]["error"]
    assert store.list() == ()


def test_the_folder_may_be_given_by_a_link(ollama: Store, store: Store, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(ollama.path)
    assert run(store.path, tmp_path / "alias", "llama:1b")[0] == 0


def test_pins_of_another_folder_of_ours_stay_there(ollama: Store, store: Store) -> None:
    stored = ollama.manifest(ModelName.parse("llama:1b"))
    ollama.pin(stored.digest, stored.data)
    code, lines = run(store.path, ollama.path)
    assert (code, lines[-1]["imported"]) == (0, 3)


def test_another_volume_is_copied_and_told(ollama: Store, small_disk: Path) -> None:
    code, lines = run(small_disk / "models", ollama.path, "llama:1b")
    stored = ollama.manifest(ModelName.parse("llama:1b"))
    assert (code, lines[-1]["copied"], lines[-1]["linked"]) == (0, blobs(stored), 0)
    assert load_model(Store(small_disk / "models"), stored.digest).digest == stored.digest
    (small_disk / "filler").write_bytes(bytes(300_000))
    code, lines = run(small_disk / "models", ollama.path)
    assert code == 1
    assert {line["reason"] for line in lines if "error" in line} == {"NoSpace"}


def test_folders_that_are_none(store: Store, tmp_path: Path, ollama: Store) -> None:
    code, (line,) = run(store.path, tmp_path / "nope")
    assert (code, line["reason"]) == (1, "NotFound")
    code, (line,) = run(ollama.path, ollama.path)
    assert (code, line["reason"]) == (1, "CacheUnusable")
    code, (line,) = run(store.path, ollama.path, "a//b")
    assert (code, line["reason"]) == (1, "InvalidName")
    assert not os.path.exists(tmp_path / "nope")
