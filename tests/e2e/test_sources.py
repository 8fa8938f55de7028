"""`paddock up` with sources of the network: a hub, a registry, a conversion, and a variant of another Model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.docker_registry import Registry, docker_registry
from tests.support.gguf_maker import make_gguf
from tests.support.hub import Hub, serving_hub
from tests.support.up import Up, cli, endpoint, model, write
from tests.support.waiting import until_sync

from paddock_operator.core.conditions import find
from paddock_operator.core.resources import Ref
from paddock_operator.executors.local import state
from paddock_operator.executors.local.home import Home

Start = Callable[..., Up]
EMPTY = b"{}"
HOURLY = {"type": "Track", "interval": "1h"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "manifests"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that `paddock up` takes for Hugging Face."""
    with serving_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("PADDOCK_ALLOW_INSECURE_HOSTS", ",".join(sorted(served.hosts)))
        yield served


def status_of(tmp_path: Path, name: str) -> dict[str, Any]:
    found = state.read(Home.at(tmp_path / "home"), Ref("Model", "default", name)) or {}
    status: dict[str, Any] = found.get("status") or {}
    return status


def resolved(tmp_path: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = status_of(tmp_path, name).get("resolved") or {}
    return found


def is_ready(tmp_path: Path, name: str) -> bool:
    return find(status_of(tmp_path, name), "Ready").get("status") == "True"


def sourced(name: str, source: dict[str, Any], **spec: Any) -> dict[str, Any]:
    document = model(name, **spec)
    document["spec"]["source"] = source
    return document


def answers(up: Up, name: str) -> bool:
    with up.client() as http:
        options = {"num_predict": 4, "temperature": 0}
        reply = http.post("/api/generate", json={"model": name, "prompt": "hello", "stream": False, "options": options})
        return reply.status_code == 200 and bool(reply.json()["done"])


def test_a_hub_a_conversion_and_variants(up: Start, folder: Path, tmp_path: Path, hub: Hub) -> None:
    """An F32 file of a repository becomes Q8_0 once; a variant shares it, one that tracks follows the next commit."""
    files = {seed: make_gguf(tmp_path / f"{seed}.gguf", seed=seed).read_bytes() for seed in (1, 2)}
    repo = hub.repo("acme/tiny", {"tiny-F32.gguf": files[1]})
    source = {"huggingFace": {"repo": "acme/tiny"}}
    base = sourced("base", source, quantization="Q8_0")
    calm = sourced("calm", {"model": {"name": "base"}}, system="Be calm.")
    eager = sourced("eager", {"model": {"name": "base"}}, updatePolicy=HOURLY)
    write(folder, base, calm, eager, endpoint("main", "base", "calm", "eager"))
    models = ("--models", str(tmp_path / "models"))
    running = up(*models).ready(60)
    until_sync(lambda: all(is_ready(tmp_path, name) for name in ("base", "calm", "eager")), 60)
    until_sync(lambda: all(answers(running, name) for name in ("base", "calm", "eager")), 20)
    first = resolved(tmp_path, "base")
    assert (first["quantization"], first["revision"]) == ("Q8_0", repo.refs["main"])
    assert first["digest"] != first["sourceDigest"]
    assert status_of(tmp_path, "base")["details"]["quantization"] == "Q8_0"
    assert resolved(tmp_path, "calm")["digest"] == resolved(tmp_path, "eager")["digest"] == first["digest"]

    repo.push({"tiny-F32.gguf": files[2]})
    base["spec"]["source"] = {**source, "resolve": "again"}
    write(folder, base, calm, eager, endpoint("main", "base", "calm", "eager"))
    until_sync(lambda: resolved(tmp_path, "base").get("revision") == repo.refs["main"], 60)
    second = resolved(tmp_path, "base")["digest"]
    until_sync(lambda: resolved(tmp_path, "eager")["digest"] == second and is_ready(tmp_path, "eager"), 60)
    assert second != first["digest"]
    assert resolved(tmp_path, "calm")["digest"] == first["digest"], "Pinned stays until it is edited"
    assert running.stop() == 0

    asked = len(hub.seen)
    again = up(*models).ready(60, key=False)
    until_sync(lambda: all(is_ready(tmp_path, name) for name in ("base", "calm", "eager")), 60)
    assert resolved(tmp_path, "base")["digest"] == second
    assert len(hub.seen) == asked, "a pinned model that the cache holds asks nobody"
    assert again.stop() == 0


def push(registry: Registry, tag: str, gguf: bytes) -> str:
    """An artifact with one GGUF layer; returns the digest of its manifest."""
    layer = {"mediaType": "application/octet-stream", **registry.put_blob("acme/tiny", gguf)}
    layer["annotations"] = {"org.opencontainers.image.title": "tiny.gguf"}
    config = {"mediaType": "application/vnd.oci.empty.v1+json", **registry.put_blob("acme/tiny", EMPTY)}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}
    return str(registry.put_manifest("acme/tiny", tag, kind, manifest)["digest"])


def test_an_artifact_whose_tag_moves(up: Start, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pinned tag stays what it was, also for a cache that lost it; another quantization is refused in words."""
    with docker_registry(tmp_path / "registry") as registry:
        monkeypatch.setenv("PADDOCK_ALLOW_INSECURE_HOSTS", registry.host)
        was = push(registry, "1", make_gguf(tmp_path / "1.gguf", seed=1).read_bytes())
        source = {"oci": {"reference": registry.reference("acme/tiny:1")}}
        write(folder, sourced("art", source), endpoint("main", "art"))
        running = up("--models", str(tmp_path / "models")).ready(60)
        until_sync(lambda: answers(running, "art"), 20)
        pin = resolved(tmp_path, "art")
        assert pin["revision"] == was
        assert running.stop() == 0

        push(registry, "1", make_gguf(tmp_path / "2.gguf", seed=2).read_bytes())
        (tmp_path / "models").rename(tmp_path / "lost")
        running = up("--models", str(tmp_path / "models")).ready(60, key=False)
        assert resolved(tmp_path, "art")["digest"] == pin["digest"]
        assert running.stop() == 0


def test_a_tag_that_moves_is_told(up: Start, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked every 8 seconds: the condition follows the tag, the pin and what is served stay; an outage is Unknown."""

    def drifted() -> tuple[str, str]:
        entry = find(status_of(tmp_path, "art"), "Drifted")
        return str(entry.get("status", "")), str(entry.get("reason", ""))

    with docker_registry(tmp_path / "registry") as registry:
        monkeypatch.setenv("PADDOCK_ALLOW_INSECURE_HOSTS", registry.host)
        push(registry, "1", make_gguf(tmp_path / "1.gguf", seed=1).read_bytes())
        source = {"oci": {"reference": registry.reference("acme/tiny:1")}}
        write(folder, sourced("art", source), endpoint("main", "art"))
        running = up("--models", str(tmp_path / "models"), "--check-sources", "8s").ready(60)
        until_sync(lambda: drifted() == ("False", "UpToDate"), 30)
        pin = resolved(tmp_path, "art")
        push(registry, "1", make_gguf(tmp_path / "2.gguf", seed=2).read_bytes())
        until_sync(lambda: drifted() == ("True", "SourceMoved"), 30)
        assert resolved(tmp_path, "art") == pin
        assert answers(running, "art")
    until_sync(lambda: drifted() == ("Unknown", "CheckFailed"), 30)
    assert is_ready(tmp_path, "art")
    assert running.stop() == 0


def test_what_cannot_be_converted_is_said(up: Start, folder: Path, tmp_path: Path, tiny_gguf: Path) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {tiny_gguf}\n")
    made = cli(tmp_path / "home", "create", "rounded", "-q", "q8_0", "-f", str(modelfile))
    assert made.returncode == 0, made.stderr
    same = sourced("same", {"ollama": {"name": "rounded"}}, quantization="Q8_0")
    write(folder, same, sourced("again", {"ollama": {"name": "rounded"}}, quantization="Q4_0"))
    up("--models", str(tmp_path / "home" / "models"))
    until_sync(lambda: find(status_of(tmp_path, "again"), "Stalled").get("status") == "True", 30)
    told = find(status_of(tmp_path, "again"), "Stalled")
    assert told["reason"] == "InvalidModel"
    assert "a model of Q8_0 cannot become Q4_0" in told["message"]
    until_sync(lambda: is_ready(tmp_path, "same"), 30)
    assert "sourceDigest" not in resolved(tmp_path, "same"), "it is of that type already"
