"""Push to a registry of Ollama's protocol: every dialect of uploads, mounts, tokens, faults, and the command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.ollama_registry import PASSWORD, USER, Auth, Fault, OllamaRegistry, Uploads, digest_of
from tests.support.ollama_registry_http import serving_registry

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import CONFIG_TYPE, Layer, build_manifest, layer
from paddock_runner.core.names import ModelName, Reference
from paddock_runner.sources.auth import access_for
from paddock_runner.sources.errors import NetworkError, UnauthorizedError
from paddock_runner.sources.network import Network
from paddock_runner.sources.push_ollama import Push
from paddock_runner.sources.transport import Transport
from paddock_runner.sources.upload import parts_of
from paddock_runner.store.errors import DigestMismatchError, NotFoundError, StoreError
from paddock_runner.store.store import Store

WEIGHTS = os.urandom(1_000_000)
TEXTS = (b"Be kind.", b"")
CONFIG = b'{"model_format":"gguf"}'
NAME = ModelName("x", "1", "me", "registry.example")
PART = 300_000


def _manifest() -> bytes:
    layers = [layer("model", Digest.of(WEIGHTS), len(WEIGHTS))]
    layers += [layer("system", Digest.of(text), len(text)) for text in TEXTS]
    return build_manifest(Layer(CONFIG_TYPE, Digest.of(CONFIG), len(CONFIG)), layers)


MANIFEST = _manifest()


class Told:
    """What a push told."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.blobs: dict[Digest, list[tuple[int, int]]] = {}

    def status(self, text: str) -> None:
        self.words.append(text)

    def __call__(self, digest: Digest, completed: int, total: int) -> None:
        self.blobs.setdefault(digest, []).append((completed, total))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "models")
    with found.writing():
        for data in (WEIGHTS, *TEXTS, CONFIG):
            found.write_blob(io.BytesIO(data))
        found.write_manifest(NAME, MANIFEST)
    return found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[OllamaRegistry]:
    with serving_registry(tmp_path / "registry") as state:
        yield state


async def push(store: Store, registry: OllamaRegistry, model: str = "me/x:1", credentials: Path | None = None) -> Told:
    told, target = Told(), Reference.parse(registry.name(model))
    network = Network.from_environment({"PADDOCK_ALLOW_INSECURE_HOSTS": registry.listed})
    async with Transport(network, access_for(credentials, target.origin, os.environ)) as transport:
        await Push(store, target, transport, told, smallest=PART, pause_seconds=0.01).run(NAME)
    return told


def pushed(registry: OllamaRegistry) -> bool:
    blobs = {path.read_bytes() for path in registry.folder.iterdir()}
    return blobs == {WEIGHTS, *TEXTS, CONFIG} and registry.manifests == {("me/x", "1"): MANIFEST}


def test_parts_are_ollamas() -> None:
    assert parts_of(0) == []
    assert [part.size for part in parts_of(250_000_000)] == [100_000_000, 100_000_000, 50_000_000]
    assert len(parts_of(4_000_000_000)) == 16
    assert max(part.size for part in parts_of(40_000_000_000)) == 1_000_000_000
    assert sum(part.size for part in parts_of(40_000_000_001)) == 40_000_000_001


@pytest.mark.parametrize("uploads", ["redirect", "chunks", "whole"])
async def test_every_dialect(tmp_path: Path, store: Store, uploads: Uploads) -> None:
    with serving_registry(tmp_path / "registry", uploads=uploads) as registry:
        told = await push(store, registry)
        assert pushed(registry)
        assert told.words == ["retrieving manifest", "pushing manifest", "success"]
        sizes = {Digest.of(data): len(data) for data in (WEIGHTS, *TEXTS, CONFIG)}
        assert {digest: seen[-1] for digest, seen in told.blobs.items()} == {d: (n, n) for d, n in sizes.items()}
        assert list(told.blobs)[-1] == Digest.of(CONFIG)
        # Nothing is sent a second time.
        before = len(registry.seen)
        await push(store, registry)
        assert {seen.step for seen in registry.seen[before:]} == {"head", "publish"}


@pytest.mark.parametrize("auth", ["ollama", "basic", "docker"])
async def test_every_kind_of_credentials(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, auth: Auth
) -> None:
    monkeypatch.setenv("PADDOCK_OLLAMA_KEY", str(tmp_path / "key" / "id_ed25519"))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "username").write_text(USER)
    (secret / "password").write_text(PASSWORD)
    with serving_registry(tmp_path / "registry", auth) as registry:
        await push(store, registry, credentials=None if auth == "ollama" else secret)
        assert pushed(registry)
        puts = [seen for seen in registry.seen if seen.step == "put"]
        assert puts
        assert all("Authorization" not in seen.headers for seen in puts)


async def test_a_token_that_expires_on_the_way_is_renewed(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDOCK_OLLAMA_KEY", str(tmp_path / "key" / "id_ed25519"))
    for uploads in ("redirect", "chunks", "whole"):
        with serving_registry(tmp_path / uploads, "ollama", uploads) as registry:  # type: ignore[arg-type]
            registry.token_uses = 2
            await push(store, registry)
            assert pushed(registry)


async def test_a_blob_of_another_repository_is_mounted(store: Store, registry: OllamaRegistry) -> None:
    registry.add_blob(WEIGHTS)
    other = ModelName("base", "1", "team", registry.host)
    store.copy(NAME, other)
    registry.faults["head"] = Fault(404)
    await push(store, registry)
    assert pushed(registry)
    opened = [seen.path for seen in registry.steps("upload")]
    assert f"/v2/me/x/blobs/uploads/?mount={Digest.of(WEIGHTS)}&from=team/base" in opened
    assert registry.steps("upload")[0].status == 201


@pytest.mark.parametrize(
    ("uploads", "step", "status", "skip"),
    [
        ("redirect", "put", 500, 1),
        ("redirect", "put", 503, 0),
        ("redirect", "commit", 502, 0),
        ("redirect", "head", 429, 0),
        ("redirect", "upload", 500, 0),
        ("redirect", "publish", 503, 0),
        ("chunks", "part", 500, 1),
        ("chunks", "part", 416, 2),
        ("whole", "commit", 500, 1),
    ],
)
async def test_what_passes_is_tried_again(
    tmp_path: Path, store: Store, uploads: Uploads, step: str, status: int, skip: int
) -> None:
    with serving_registry(tmp_path / "registry", uploads=uploads) as registry:
        registry.faults[step] = Fault(status, times=1, skip=skip, headers={"Retry-After": "0"})
        await push(store, registry)
        assert pushed(registry)
        assert status in [seen.status for seen in registry.steps(step)]


@pytest.mark.parametrize(
    ("step", "status", "error"),
    [
        ("head", 401, UnauthorizedError),
        ("upload", 403, UnauthorizedError),
        ("upload", 404, NotFoundError),
        ("part", 403, UnauthorizedError),
        ("put", 403, UnauthorizedError),
        ("commit", 400, NetworkError),
        ("publish", 403, UnauthorizedError),
        ("publish", 400, NetworkError),
    ],
)
async def test_what_a_registry_refuses(
    store: Store, registry: OllamaRegistry, step: str, status: int, error: type[StoreError]
) -> None:
    registry.faults[step] = Fault(status, body=b"no")
    with pytest.raises(error) as caught:
        await push(store, registry)
    assert not caught.value.retryable
    assert not registry.manifests


async def test_the_next_push_sends_only_what_is_missing(store: Store, registry: OllamaRegistry) -> None:
    registry.faults["publish"] = Fault(403, times=1)
    with pytest.raises(UnauthorizedError):
        await push(store, registry)
    before = len(registry.seen)
    await push(store, registry)
    assert pushed(registry)
    assert not [seen for seen in registry.seen[before:] if seen.step in ("upload", "part", "put")]


async def test_damaged_or_missing_bytes_are_never_sent(store: Store, registry: OllamaRegistry) -> None:
    blob = store.blob_path(Digest.of(WEIGHTS))
    blob.write_bytes(WEIGHTS[:-1] + b"?")
    with pytest.raises(DigestMismatchError):
        await push(store, registry)
    blob.unlink()
    with pytest.raises(NotFoundError):
        await push(store, registry)
    assert not registry.seen


async def test_a_demanded_digest_must_be_the_models(store: Store, registry: OllamaRegistry) -> None:
    with pytest.raises(DigestMismatchError):
        await push(store, registry, f"me/x:1@sha256:{'0' * 64}")
    assert not registry.seen
    await push(store, registry, f"me/x:1@{digest_of(MANIFEST)}")


async def test_a_registry_that_changes_the_manifest_is_told(store: Store, registry: OllamaRegistry) -> None:
    registry.faults["publish"] = Fault(201, headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"})
    with pytest.raises(DigestMismatchError, match="registry took"):
        await push(store, registry)


def command(store: Store, *arguments: str, **environment: str) -> tuple[int, list[dict[str, Any]]]:
    words = [sys.executable, "-m", "paddock_runner", "push", "--models", str(store.path), *arguments]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_command_speaks_ollamas_words(tmp_path: Path, store: Store, registry: OllamaRegistry) -> None:
    name = f"{registry.host}/me/x:1"
    code, lines = command(store, str(NAME), name, "--insecure", PADDOCK_ALLOW_INSECURE_HOSTS=registry.other_host)
    assert code == 0, lines
    assert pushed(registry)
    assert [lines[0], *lines[-2:]] == [
        {"status": "retrieving manifest"}, {"status": "pushing manifest"}, {"status": "success"},
    ]  # fmt: skip
    blob = {"status": f"pushing {Digest.of(WEIGHTS).short}", "digest": digest_of(WEIGHTS), "total": len(WEIGHTS)}
    assert {**blob, "completed": 0} in lines
    assert {**blob, "completed": len(WEIGHTS)} in lines


def test_the_command_fails_with_a_reason(store: Store, registry: OllamaRegistry) -> None:
    name = f"{registry.host}/me/x:1"
    code, lines = command(store, "nothing:1")
    assert (code, lines[-1]["reason"]) == (1, "NotFound")
    code, lines = command(store, str(NAME), f"http://{name}")
    assert (code, lines[-1]["reason"]) == (1, "InsecureSource")
    code, lines = command(store, "../x")
    assert (code, lines[-1]["reason"]) == (1, "InvalidName")
    registry.faults["publish"] = Fault(403)
    code, lines = command(store, str(NAME), f"http://{name}", PADDOCK_ALLOW_INSECURE_HOSTS=registry.listed)
    assert (code, lines[-1]["reason"]) == (1, "Unauthorized")
