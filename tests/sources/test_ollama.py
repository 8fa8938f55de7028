"""The source of Ollama's protocol against a registry on loopback: names, manifests, digests, tokens, faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gguf_maker import make_gguf
from tests.support.ollama_registry import PASSWORD, USER, Auth, Fault, OllamaRegistry
from tests.support.ollama_registry_http import serving_registry

from paddock_runner.core.digest import Digest
from paddock_runner.core.names import ModelName
from paddock_runner.sources.errors import NetworkError, SourceUnsupportedError, UnauthorizedError
from paddock_runner.sources.network import Network
from paddock_runner.sources.ollama import OllamaSource
from paddock_runner.sources.plan import FetchPlan, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import DigestMismatchError, InvalidModelError, NotFoundError, StoreError

HEX = "0123456789abcdef" * 4
LAYERS = {
    "model": b"GGUF-model",
    "projector": b"GGUF-projector",
    "adapter": b"GGUF-adapter",
    "draft": b"GGUF-draft",
    "template": b"{{ .Prompt }}",
    "prompt": b"{{ .Old }}",
    "system": b"Be kind.",
    "params": b'{"stop":["END"]}',
    "messages": b"[]",
    "license": b"free",
    "embed": b"ignored",
    "application/x-strange": b"carried",
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[OllamaRegistry]:
    with serving_registry(tmp_path / "registry") as state:
        yield state


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    return make_gguf(tmp_path / "tiny.gguf").read_bytes()


def source(
    registry: OllamaRegistry, model: str = "me/x:1", credentials: Path | None = None, **spec: Any
) -> OllamaSource:
    return OllamaSource.parse({"name": registry.name(model), **spec}, credentials)


async def plan(registry: OllamaRegistry, wanted: OllamaSource) -> FetchPlan:
    network = Network.from_environment({"PADDOCK_ALLOW_INSECURE_HOSTS": registry.listed})
    async with Transport(network, wanted.access) as transport:
        return await wanted.plan(transport)


async def test_a_plan_lists_every_layer_and_keeps_the_manifest(registry: OllamaRegistry) -> None:
    data = registry.add_model("me/x", "1", LAYERS, b'{"model_format":"gguf"}')
    found = await plan(registry, source(registry))
    assert (found.name, found.manifest) == (ModelName.parse(f"{registry.host}/me/x:1"), data)
    assert found.revision == found.validator == str(Digest.of(data))
    kinds = [item.kind for item in found.files]
    assert kinds == ["model", "projector", "adapter", "", "template", "template", "system", "params", "messages",
                     "license", "", "", "config"]  # fmt: skip
    sent = {str(item.digest): registry.blob(str(item.digest)) for item in found.files}
    assert [len(sent[str(item.digest)] or b"") for item in found.files] == [item.size for item in found.files]
    assert found.files[0].media_type == "application/vnd.ollama.image.model"
    assert found.files[0].where == Remote(f"{registry.origin}/v2/me/x/blobs/{Digest.of(b'GGUF-model')}")
    assert [seen.path for seen in registry.seen] == ["/v2/me/x/manifests/1"]
    assert registry.seen[0].headers["Accept"] == "application/vnd.docker.distribution.manifest.v2+json"


async def test_a_blob_that_is_listed_twice_is_planned_once(registry: OllamaRegistry) -> None:
    registry.add_model("me/x", "1", {"model": b"same", "license": b"{}", "system": b"{}"})
    found = await plan(registry, source(registry))
    assert [(item.kind, item.size) for item in found.files] == [
        ("model", 4),
        ("license", 2),
        ("system", 2),
        ("config", 2),
    ]


@pytest.mark.parametrize("by_digest", [True, False])
async def test_a_digest_pins_also_where_the_tag_moved(registry: OllamaRegistry, by_digest: bool) -> None:
    old = registry.add_model("me/x", "1", {"model": b"old"})
    wanted = source(registry, f"me/x:1@{Digest.of(old)}")
    registry.by_digest = by_digest
    assert (await plan(registry, wanted)).manifest == old
    registry.add_model("me/x", "1", {"model": b"new"})
    registry.manifests["me/x", "kept"] = old
    if by_digest:
        assert (await plan(registry, wanted)).manifest == old
        return
    with pytest.raises(DigestMismatchError, match=Digest.of(old).hex):
        await plan(registry, wanted)


async def test_a_registry_that_lies_about_a_digest_is_refused(registry: OllamaRegistry) -> None:
    data = registry.add_model("me/x", "1", {"model": b"x"})
    registry.faults["manifest"] = Fault(200, body=data, headers={"Docker-Content-Digest": f"sha256:{HEX}"})
    with pytest.raises(DigestMismatchError, match=HEX):
        await plan(registry, source(registry))
    registry.faults["manifest"] = Fault(200, body=data)
    with pytest.raises(DigestMismatchError, match=HEX):
        await plan(registry, source(registry, f"me/x@sha256:{HEX}"))


def layer(**changes: Any) -> dict[str, Any]:
    return {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{HEX}", "size": 5, **changes}


def manifest(*layers: dict[str, Any], **changes: Any) -> bytes:
    config = layer(mediaType="application/vnd.docker.container.image.v1+json")
    return json.dumps({"schemaVersion": 2, "config": config, "layers": list(layers), **changes}).encode()


@pytest.mark.parametrize(
    ("body", "error", "match"),
    [
        (b"<html>Sign in</html>", InvalidModelError, "invalid JSON"),
        (b"", InvalidModelError, "missing"),
        (b"GGUF\x03\x00", InvalidModelError, "JSON|UTF-8"),
        (manifest(), InvalidModelError, "layers"),
        (manifest(*[layer()] * 5000), InvalidModelError, "1 to 4096"),
        (manifest(layer(size=-1)), InvalidModelError, r"layers\[0\].size"),
        (manifest(layer(size=2**60)), InvalidModelError, r"layers\[0\].size"),
        (manifest(layer(digest="sha256:../../../etc/passwd")), InvalidModelError, r"layers\[0\].digest"),
        (manifest(layer(), layer(size=6)), InvalidModelError, "sizes 5 and 6"),
        (manifest(layer(), schemaVersion=1), InvalidModelError, "schemaVersion"),
        (manifest(layer(), manifests=[]), InvalidModelError, "index"),
        (manifest(layer()).replace(b'"config":', b'"config":{},"config":'), InvalidModelError, "duplicate key"),
        (manifest(layer(), config=None), InvalidModelError, "config"),
        (b"[" * 100_000, InvalidModelError, "nested"),
        (manifest(layer(mediaType="application/vnd.ollama.image.tensor")), SourceUnsupportedError, "safetensors"),
        (manifest(layer(mediaType="application/vnd.ollama.image.system")), InvalidModelError, "no model layer"),
        (b" " * 10_000_000, StoreError, "bytes|limit"),
        (b'{"schemaVersion":2,"layers":[' + b"{}," * 100_000 + b"{}]}", InvalidModelError, "1 to 4096"),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else None,
)
async def test_bad_manifests(registry: OllamaRegistry, body: bytes, error: type[StoreError], match: str) -> None:
    registry.faults["manifest"] = Fault(200, body=body)
    with pytest.raises(error, match=match) as caught:
        await plan(registry, source(registry))
    assert len(str(caught.value)) < 500
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, UnauthorizedError),
        (403, UnauthorizedError),
        (404, NotFoundError),
        (410, NotFoundError),
        (400, NetworkError),
    ],
)
async def test_what_a_registry_refuses(registry: OllamaRegistry, status: int, error: type[StoreError]) -> None:
    registry.add_model("me/x", "1", {"model": b"x"})
    registry.faults["manifest"] = Fault(status)
    with pytest.raises(error):
        await plan(registry, source(registry))


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_passes_is_asked_again(registry: OllamaRegistry, status: int) -> None:
    data = registry.add_model("me/x", "1", {"model": b"x"})
    registry.faults["manifest"] = Fault(status, times=1, headers={"Retry-After": "0"})
    assert (await plan(registry, source(registry))).manifest == data
    assert [seen.status for seen in registry.steps("manifest")] == [status, 200]


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({}, "name must be a text"),
        ({"name": 5}, "name must be a text"),
        ({"name": "../x"}, "namespace"),
        ({"name": "x", "digest": 5}, "digest"),
        ({"name": "x", "digest": "sha256:x"}, "digest"),
        ({"name": "x@sha256:x"}, "after '@'"),
        ({"name": f"x@sha256:{HEX}", "digest": f"sha256:{'0' * 64}"}, "remove one"),
        ({"name": "ftp://h/a/b"}, "https"),
        ({"name": "http://x"}, "needs a host"),
        ({"name": "x:" + "t" * 129}, "80 bytes"),
        ({"name": "ｘ"}, "model"),
    ],
)
def test_bad_specs(spec: dict[str, object], match: str) -> None:
    with pytest.raises(SourceUnsupportedError, match=match):
        OllamaSource.parse(spec)


def test_equal_digests_in_name_and_field_agree() -> None:
    digest = f"sha256:{HEX}"
    found = OllamaSource.parse({"name": f"x@{digest}", "digest": digest})
    assert (found.name, found.digest, found.origin) == (ModelName("x"), Digest(HEX), "https://registry.ollama.ai")


async def test_plain_http_is_only_for_listed_hosts(registry: OllamaRegistry) -> None:
    wanted = source(registry)
    async with Transport(Network.from_environment({}), wanted.access) as transport:
        with pytest.raises(StoreError) as caught:
            await wanted.plan(transport)
    assert caught.value.reason in ("InsecureSource", "ForbiddenAddress")
    assert not registry.seen


@pytest.mark.parametrize("auth", ["ollama", "basic", "docker"])
async def test_credentials_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: Auth) -> None:
    monkeypatch.setenv("PADDOCK_OLLAMA_KEY", str(tmp_path / "key" / "id_ed25519"))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "username").write_text(USER)
    (secret / "password").write_text(PASSWORD)
    with serving_registry(tmp_path / "registry", auth) as registry:
        data = registry.add_model("me/x", "1", {"model": b"x"})
        found = await plan(registry, source(registry, credentials=None if auth == "ollama" else secret))
        assert found.manifest == data
        assert bool(registry.keys) == (auth == "ollama")


async def test_a_refused_key_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_OLLAMA_KEY", str(tmp_path / "key" / "id_ed25519"))
    with serving_registry(tmp_path / "registry", "ollama") as registry:
        registry.faults["token"] = Fault(401)
        with pytest.raises(UnauthorizedError):
            await plan(registry, source(registry))
        assert len(registry.seen) <= 4


@pytest.mark.parametrize("host", ["hf.co", "HuggingFace.co"])
def test_hugging_face_is_somebody_elses(host: str) -> None:
    found = OllamaSource.parse({"name": f"{host}/org/repo:Q4_K_M"})
    access = found.access
    assert access is None or access.origin == "https://huggingface.co"
