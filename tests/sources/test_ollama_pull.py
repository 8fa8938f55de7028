"""Whole pulls from a registry of Ollama's protocol into a store: tokens, faults at every step, moved tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf
from tests.support.ollama_registry import Fault, OllamaRegistry
from tests.support.ollama_registry_http import serving_registry

from paddock_runner.commands import pull as pull_command
from paddock_runner.core.digest import Digest
from paddock_runner.sources.errors import NetworkError, UnauthorizedError
from paddock_runner.sources.fetch import fetch
from paddock_runner.sources.network import Network, Timeouts
from paddock_runner.sources.ollama import OllamaSource
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import DigestMismatchError, NotFoundError, NotGGUFError, SizeMismatchError, StoreError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.store import Store


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[OllamaRegistry]:
    with serving_registry(tmp_path / "registry") as state:
        yield state


def add(registry: OllamaRegistry, gguf: bytes, system: bytes = b"Be kind.") -> bytes:
    layers = {"model": gguf, "system": system, "application/x-strange": b"kept"}
    return registry.add_model("me/x", "1", layers, b'{"model_format":"gguf"}')


async def pull(folder: Path, registry: OllamaRegistry, name: str = "me/x:1") -> StoredManifest:
    source = OllamaSource.parse({"name": registry.name(name)})
    network = Network.from_environment({"PADDOCK_ALLOW_INSECURE_HOSTS": registry.listed})
    quick = replace(network, timeouts=Timeouts(pause=0.01, longest_wait=0.02))
    async with Transport(quick, source.access) as transport:
        return (await fetch(Store(folder / "models"), source, transport, lambda *_: None)).stored


async def test_a_pull_keeps_every_byte(tmp_path: Path, registry: OllamaRegistry, gguf: bytes) -> None:
    data = add(registry, gguf)
    stored = await pull(tmp_path, registry)
    assert (stored.data, stored.digest) == (data, Digest.of(data))
    store = Store(tmp_path / "models")
    for layer in stored.manifest.blobs:
        assert store.blob_path(layer.digest).read_bytes() == registry.blob(str(layer.digest))
        assert store.has_verified(layer.digest)
    assert load_model(store, stored.digest).system == "Be kind."


def test_a_check_asks_and_fetches_nothing(
    tmp_path: Path,
    registry: OllamaRegistry,
    gguf: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = add(registry, gguf)
    monkeypatch.setenv("PADDOCK_ALLOW_INSECURE_HOSTS", registry.listed)
    asked = {"source": {"ollama": {"name": registry.name("me/x:1")}}, "digest": None, "fresh": True, "check": True}
    request = tmp_path / "request"
    request.write_text(json.dumps(asked))
    arguments = ["--models", str(tmp_path / "models"), "--request", str(request)]
    message = tmp_path / "message"
    assert pull_command.main([*arguments, "--termination-message", str(message)]) == 0
    (event,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    digest = str(Digest.of(data))
    assert event == {"event": "checked", "digest": digest, "revision": digest, "files": [str(Digest.of(gguf))]}
    assert json.loads(message.read_text()) == event
    assert registry.steps("data") == []
    assert not (tmp_path / "models").exists()

    asked["source"] = {"ollama": {"name": registry.name("me/x:2")}}
    request.write_text(json.dumps(asked))
    assert pull_command.main(arguments) == 1
    assert json.loads(capsys.readouterr().out)["reason"] == "NotFound"
    request.write_text(json.dumps({**asked, "check": "yes"}))
    assert pull_command.main(arguments) == 1
    assert "check must be true or false" in json.loads(capsys.readouterr().out)["message"]


async def test_the_next_pull_fetches_only_what_is_new(tmp_path: Path, registry: OllamaRegistry, gguf: bytes) -> None:
    add(registry, gguf)
    await pull(tmp_path, registry)
    before = len(registry.steps("data"))
    add(registry, gguf, b"Be brief.")
    stored = await pull(tmp_path, registry)
    assert load_model(Store(tmp_path / "models"), stored.digest).system == "Be brief."
    assert len(registry.steps("data")) == before + 1


async def test_a_pin_brings_the_old_model_after_the_tag_moved(
    tmp_path: Path, registry: OllamaRegistry, gguf: bytes
) -> None:
    old = add(registry, gguf)
    registry.manifests["me/x", "old"] = old
    add(registry, gguf, b"Be brief.")
    stored = await pull(tmp_path, registry, f"me/x:1@{Digest.of(old)}")
    assert stored.data == old


async def test_a_token_that_expires_in_the_middle_is_renewed(
    tmp_path: Path, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_OLLAMA_KEY", str(tmp_path / "key" / "id_ed25519"))
    with serving_registry(tmp_path / "registry", "ollama") as registry:
        registry.revoke_after = {1, 3}
        data = add(registry, gguf)
        assert (await pull(tmp_path, registry)).data == data
        assert len(registry.steps("token")) == 3
        assert all("Authorization" not in seen.headers for seen in registry.steps("data"))


@pytest.mark.parametrize(
    ("step", "status", "error"),
    [
        ("blob", 401, UnauthorizedError),
        ("blob", 403, UnauthorizedError),
        ("blob", 404, NotFoundError),
        ("data", 403, StoreError),
        ("data", 404, NotFoundError),
        ("blob", 429, NetworkError),
    ],
)
async def test_a_refusal_leaves_no_name(
    tmp_path: Path, registry: OllamaRegistry, gguf: bytes, step: str, status: int, error: type[StoreError]
) -> None:
    add(registry, gguf)
    registry.faults[step] = Fault(status)
    with pytest.raises(error):
        await pull(tmp_path, registry)
    assert Store(tmp_path / "models").list() == ()
    registry.faults = {}
    await pull(tmp_path, registry)


@pytest.mark.parametrize("step", ["manifest", "blob", "data"])
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_passes_is_asked_again(
    tmp_path: Path, registry: OllamaRegistry, gguf: bytes, step: str, status: int
) -> None:
    data = add(registry, gguf)
    registry.faults[step] = Fault(status, times=1, headers={"Retry-After": "0"})
    assert (await pull(tmp_path, registry)).data == data


async def test_bytes_that_are_not_the_digests_are_refused(
    tmp_path: Path, registry: OllamaRegistry, gguf: bytes
) -> None:
    add(registry, gguf)
    blob = registry.folder / Digest.of(gguf).hex
    blob.write_bytes(gguf[:-1] + bytes([gguf[-1] ^ 1]))
    with pytest.raises(DigestMismatchError):
        await pull(tmp_path, registry)
    blob.write_bytes(gguf[:-100])
    with pytest.raises((SizeMismatchError, NetworkError)):
        await pull(tmp_path, registry)
    blob.write_bytes(gguf)
    await pull(tmp_path, registry)


async def test_a_model_layer_that_is_no_gguf_is_refused(tmp_path: Path, registry: OllamaRegistry) -> None:
    add(registry, b"<html>" * 1000)
    with pytest.raises(NotGGUFError):
        await pull(tmp_path, registry)
    assert Store(tmp_path / "models").list() == ()
