"""The registry of the tests is held to the real protocol: the real `ollama` pulls from it and pushes to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.ollama_registry import Auth, Fault, OllamaRegistry, Uploads, digest_of
from tests.support.ollama_registry_http import serving_registry

from interop.conftest import runner
from interop.stock import Ollama, StockError, serving

MANIFEST = "manifests/registry.ollama.ai/library/tiny/1b"


def publish(registry: OllamaRegistry, folder: Path) -> None:
    """Put what Paddock created as `tiny:1b` into the registry."""
    for blob in (folder / "blobs").iterdir():
        registry.add_blob(blob.read_bytes())
    registry.manifests["library/tiny", "1b"] = (folder / MANIFEST).read_bytes()


@pytest.mark.parametrize("auth", ["", "ollama"])
def test_stock_pulls_from_it(
    program: Path, tmp_path: Path, tiny: Path, created: Callable[..., Path], auth: Auth
) -> None:
    ours = created("tiny:1b", tiny, "TEMPLATE {{ .Prompt }}", "LICENSE free")
    with (
        serving_registry(tmp_path / "registry", auth) as registry,
        serving(program, tmp_path / "home", tmp_path / "theirs") as stock,
    ):
        publish(registry, ours)
        assert stock.pull(f"{registry.host}/library/tiny:1b")[-1] == "success"
        stored = stock.models / "manifests" / registry.host / "library/tiny/1b"
        assert stored.read_bytes() == (ours / MANIFEST).read_bytes()
        assert bool(registry.keys) == (auth == "ollama")
        assert all("Authorization" not in seen.headers for seen in registry.steps("data"))
        assert {seen.status for seen in registry.steps("blob")} <= {307, 401}


@pytest.mark.parametrize(("auth", "uploads"), [("", "redirect"), ("ollama", "redirect"), ("", "chunks")])
def test_stock_pushes_to_it(
    program: Path, tmp_path: Path, tiny: Path, created: Callable[..., Path], auth: Auth, uploads: Uploads
) -> None:
    ours = created("tiny:1b", tiny, "SYSTEM Be kind.")
    with (
        serving_registry(tmp_path / "registry", auth, uploads) as registry,
        serving(program, tmp_path / "home", ours) as stock,
    ):
        name = f"{registry.host}/me/tiny:1b"
        stock.copy("tiny:1b", name)
        assert stock.push(name)[-1] == "success"
        blobs = {blob.name.removeprefix("sha256-"): blob.read_bytes() for blob in (ours / "blobs").iterdir()}
        assert {path.name: path.read_bytes() for path in registry.folder.iterdir()} == blobs
        assert ("me/tiny", "1b") in registry.manifests
        stock_pulls_back(stock, name)


def test_paddock_pulls_what_stock_pushed(
    program: Path, tmp_path: Path, tiny: Path, created: Callable[..., Path]
) -> None:
    ours = created("tiny:1b", tiny, "SYSTEM Be kind.")
    with (
        serving_registry(tmp_path / "registry", "ollama") as registry,
        serving(program, tmp_path / "home", ours) as stock,
    ):
        stock.copy("tiny:1b", f"{registry.host}/me/tiny:1b")
        stock.push(f"{registry.host}/me/tiny:1b")
        allowed = {"PADDOCK_ALLOW_INSECURE_HOSTS": registry.listed, "PADDOCK_OLLAMA_KEY": str(stock.key)}
        request = tmp_path / "request.json"
        request.write_text(json.dumps({"source": {"ollama": {"name": registry.name("me/tiny:1b")}}, "digest": None}))
        fresh = tmp_path / "fresh"
        last = runner("pull", "--models", fresh, "--request", request, **allowed)[-1]
        assert last["event"] == "result", last
        assert last["result"]["digest"] == digest_of(registry.manifests["me/tiny", "1b"])
        assert len(registry.keys) == 1, "both signed with the same key"
    assert {path.name for path in (fresh / "blobs").iterdir()} == {path.name for path in (ours / "blobs").iterdir()}


@pytest.mark.parametrize("uploads", ["redirect", "chunks", "whole"])
def test_stock_pulls_what_paddock_pushed(
    program: Path, tmp_path: Path, tiny: Path, created: Callable[..., Path], uploads: Uploads
) -> None:
    ours = created("tiny:1b", tiny, "SYSTEM Be kind.")
    with (
        serving_registry(tmp_path / "registry", "ollama", uploads) as registry,
        serving(program, tmp_path / "home", tmp_path / "theirs") as stock,
    ):
        name, key = f"{registry.host}/me/tiny:1b", str(stock.key)
        words = ["push", "--models", ours, "tiny:1b", name, "--insecure"]
        allowed = {"PADDOCK_ALLOW_INSECURE_HOSTS": registry.other_host, "PADDOCK_OLLAMA_KEY": key}
        assert runner(*words, **allowed)[-1] == {"status": "success"}
        assert stock.pull(name)[-1] == "success"
        assert stock.show(name)["system"] == "Be kind."


def stock_pulls_back(stock: Ollama, name: str) -> None:
    stock.ask("DELETE", "/api/delete", {"model": name})
    assert name not in stock.names()
    stock.pull(name)
    assert name in stock.names()


def test_its_faults_are_what_stock_reports(program: Path, tmp_path: Path) -> None:
    with (
        serving_registry(tmp_path / "registry", "ollama") as registry,
        serving(program, tmp_path / "home", tmp_path / "theirs") as stock,
    ):
        registry.add_model("library/tiny", "1b", {"model": b"GGUF"})
        registry.faults["token"] = Fault(401, body=b'{"errors":[{"code":"UNAUTHORIZED"}]}')
        with pytest.raises(StockError, match="pull model manifest: 401"):
            stock.pull(f"{registry.host}/library/tiny:1b")
        registry.faults = {"manifest": Fault(429, body=b"slow down")}
        with pytest.raises(StockError, match="429: slow down"):
            stock.pull(f"{registry.host}/library/tiny:1b")
