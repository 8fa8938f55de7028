"""`store verify --repair`: a damaged model of a registry is whole again, for little more than what was damaged."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gguf_maker import make_gguf
from tests.support.ollama_registry import OllamaRegistry
from tests.support.ollama_registry_http import serving_registry

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import parse_manifest
from paddock_runner.core.names import ModelName
from paddock_runner.store.model import load_model
from paddock_runner.store.partial import kept_journal
from paddock_runner.store.store import Store

Lines = list[dict[str, Any]]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[OllamaRegistry]:
    with serving_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def run(registry: OllamaRegistry, *arguments: str | Path, stdin: object = None) -> tuple[int, Lines]:
    done = subprocess.run(
        [sys.executable, "-m", "paddock_runner", *map(str, arguments)],
        input=json.dumps(stdin),
        env=os.environ | {"PADDOCK_ALLOW_INSECURE_HOSTS": registry.listed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def pulled(registry: OllamaRegistry, store: Store, tmp_path: Path) -> tuple[str, Digest, bytes]:
    """A model that was pulled: its name, its weights' digest and their bytes."""
    gguf = make_gguf(tmp_path / "wide.gguf", embedding=512, heads=4, kv_heads=4, feed_forward=2048, vocab=900)
    data = gguf.read_bytes()
    manifest = registry.add_model("library/wide", "latest", {"model": data, "system": b"Be kind."})
    name = registry.name("library/wide")
    code, lines = run(
        registry, "pull", "--models", store.path, "--request", "-", stdin={"source": {"ollama": {"name": name}}}
    )
    assert (code, lines[-1]["event"]) == (0, "result"), lines
    (weights,) = parse_manifest(manifest).of_kind("model")
    return name.removeprefix("http://"), weights.digest, data


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))


def asked_bytes(registry: OllamaRegistry, since: int, size: int) -> int:
    """Bytes of weights that were asked for in requests after the first `since`."""
    total = 0
    for seen in registry.steps("data")[since:]:
        spec = seen.headers.get("range", seen.headers.get("Range", ""))
        start, _, end = spec.removeprefix("bytes=").partition("-")
        total += (int(end or size - 1) + 1 - int(start or 0)) if spec else size
    return total


def test_only_what_is_damaged_is_fetched(registry: OllamaRegistry, store: Store, tmp_path: Path) -> None:
    name, digest, data = pulled(registry, store, tmp_path)
    assert kept_journal(store.path / "blobs", digest).is_file()
    before = len(registry.steps("data"))
    flip(store.blob_path(digest), random.Random(4).randrange(len(data)))
    code, lines = run(registry, "store", "--models", store.path, "verify", "--repair")
    assert (code, lines[-1]) == (
        0,
        {"status": "success", "checked": 3, "bytes": lines[-1]["bytes"], "damaged": 1, "repaired": 1},
    )
    assert store.blob_path(digest).read_bytes() == data
    assert load_model(store, store.manifest(ModelName.parse(name))).model_path.is_file()
    assert 0 < asked_bytes(registry, before, len(data)) < len(data) / 2


def test_a_missing_blob_comes_back_and_a_lost_registry_is_told(
    registry: OllamaRegistry, store: Store, tmp_path: Path
) -> None:
    name, digest, data = pulled(registry, store, tmp_path)
    store.blob_path(digest).unlink()
    code, lines = run(registry, "store", "--models", store.path, "verify", name, "--repair")
    assert (code, lines[-1]["repaired"]) == (0, 1)
    assert store.blob_path(digest).read_bytes() == data
    store.blob_path(digest).write_bytes(b"gone")
    registry._blob(str(digest)).unlink()
    code, lines = run(registry, "store", "--models", store.path, "verify", name, "--repair")
    assert (code, lines[-1]["status"], lines[-1]["repaired"]) == (1, "damaged", 0)
    (told,) = [line for line in lines if "error" in line]
    assert (told["reason"], told["name"]) == ("NotFound", name if ":" in name.split("/")[-1] else f"{name}:latest")


def test_a_name_that_does_not_say_where_from(registry: OllamaRegistry, store: Store, tmp_path: Path) -> None:
    name, digest, _ = pulled(registry, store, tmp_path)
    with store.collecting():
        store.remove_root(ModelName.parse(name))
    store.blob_path(digest).unlink()
    code, lines = run(registry, "store", "--models", store.path, "verify", "--repair")
    assert code == 1
    (told,) = [line for line in lines if "error" in line]
    assert "pull its model again" in told["error"]
