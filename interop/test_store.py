"""One model folder, two programs: stock `ollama` on what Paddock made, and Paddock on what `ollama` made."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from tests.support.ollama_registry_http import serving_registry

from interop.conftest import runner
from interop.stock import Ollama, serving
from paddock_runner.core.digest import Digest
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import Delta, GenerationRequest, Sampling, Segment
from paddock_runner.core.names import ModelName
from paddock_runner.engine.client import EngineClient
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store

PROMPT = "The capital of France is"
RECORD = EngineRecord(
    mode="generate", context_length=512, slots=1, cells=512, sequences=1, batch=64, prefix_bytes=0,
    type_k="f16", type_v="f16",
    flash_attention="auto", mmap=True, mlock=False, gpu_layers=0, threads=1,
)  # fmt: skip


def hashes(models: Path) -> dict[str, str]:
    """What every blob's bytes hash to."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (models / "blobs").iterdir()}


def is_whole(models: Path) -> bool:
    return all(name == f"sha256-{digest}" for name, digest in hashes(models).items())


def grow_old(models: Path) -> None:
    """`ollama` prunes at its start what is older than an hour."""
    old = time.time() - 7200
    for path in (models / "blobs").iterdir():
        os.utime(path, (old, old))


def stock_digest(stock: Ollama, name: str) -> str:
    found = {item["name"]: item["digest"] for item in stock.ask("GET", "/api/tags")["models"]}
    return str(found[name])


async def runs(gguf: Path) -> str:
    """A few greedy words of our engine."""
    client = EngineClient(gguf, RECORD)
    try:
        await client.load()
        request = GenerationRequest(
            request_id="r", prompt=(Segment("e"),), sampling=Sampling(temperature=0.0), max_tokens=8
        )
        return "".join([event.text async for event in client.generate(request) if isinstance(event, Delta)])
    finally:
        await client.close()


def listed(models: Path) -> dict[str, str]:
    """Names and digests by our own words."""
    return {item["name"]: item["digest"] for item in runner("store", "--models", models, "list")[0]["models"]}


def test_stock_runs_what_paddock_made(
    program: Path, tmp_path: Path, weights: Path, created: Callable[..., Path]
) -> None:
    ours = created("smol:135m", weights, "SYSTEM Be brief.", "PARAMETER temperature 0")
    store = Store(ours)
    made = store.manifest(ModelName("smol", "135m"))
    store.pin(made.digest, made.data)
    grow_old(ours)
    with serving(program, tmp_path / "home", ours) as stock:
        assert "smol:135m" in stock.names()
        assert stock_digest(stock, "smol:135m") == made.digest.hex
        shown = stock.show("smol:135m")
        assert (shown["system"], shown["details"]["family"]) == ("Be brief.", "llama")
        answer = stock.answer("smol:135m", PROMPT)
        assert "Paris" in answer
        stock.copy("smol:135m", "copied:1")
    assert is_whole(ours)
    assert listed(ours)["copied:1"] == listed(ours)["smol:135m"] == made.digest.hex
    assert load_model(store, made.digest).system == "Be brief."


async def test_paddock_uses_what_stock_made(program: Path, tmp_path: Path, tiny: Path) -> None:
    theirs = tmp_path / "theirs"
    with serving(program, tmp_path / "home", theirs) as stock:
        digest = f"sha256:{hashlib.sha256(tiny.read_bytes()).hexdigest()}"
        send(stock, digest, tiny.read_bytes())
        body = {
            "model": "made:1",
            "files": {"tiny.gguf": digest},
            "system": "Be kind.",
            "parameters": {"stop": ["END"]},
        }
        assert stock.stream("/api/create", body)[-1] == {"status": "success"}
        assert listed(theirs) == {"made:1": stock_digest(stock, "made:1")}
        before = stock.answer("made:1", "e")
    shown = runner("store", "--models", theirs, "show", "made:1")[0]
    assert shown["system"] == "Be kind."
    model = load_model(Store(theirs), Digest(listed(theirs)["made:1"]))
    assert (model.system, dict(model.parameters)["stop"]) == ("Be kind.", ["END"])
    assert len(await runs(model.model_path)) >= 8
    runner("store", "--models", theirs, "cp", "made:1", "ours:1")
    runner("store", "--models", theirs, "rm", "made:1")
    with serving(program, tmp_path / "home", theirs) as stock:
        assert stock.names() == {"ours:1"}
        assert stock.answer("ours:1", "e") == before
    assert is_whole(theirs)


def send(stock: Ollama, digest: str, data: bytes) -> None:
    """Upload a blob through the server's own API."""
    assert httpx.post(f"{stock.url}/api/blobs/{digest}", content=data, timeout=60).status_code == 201


def test_paddock_uses_what_stock_pulled(program: Path, tmp_path: Path, tiny: Path) -> None:
    with (
        serving_registry(tmp_path / "registry") as registry,
        serving(program, tmp_path / "home", tmp_path / "theirs") as stock,
    ):
        layers = {"model": tiny.read_bytes(), "system": b"Be kind.", "application/x-strange": b"kept"}
        data = registry.add_model("me/tiny", "1b", layers, b'{"model_format":"gguf","model_family":"llama"}')
        name = f"{registry.host}/me/tiny:1b"
        stock.pull(name)
        assert listed(stock.models)[name] == Digest.of(data).hex
        assert load_model(Store(stock.models), Digest.of(data)).system == "Be kind."
        assert name in stock.names()
