"""The lists that the gateway answers itself, in the shapes of Ollama and OpenAI."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.gateway import kit


async def test_tags_have_ollamas_shape(gateway: kit.Running) -> None:
    models = (await gateway.get("/api/tags")).json()["models"]
    assert [model["name"] for model in models] == ["smollm2:latest", "smollm2:135m"]
    assert models[0] == {
        "name": "smollm2:latest",
        "model": "smollm2:latest",
        "modified_at": "2026-01-01T00:00:00Z",
        "size": 98362432,
        "digest": "ab" * 32,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "134.52M",
            "quantization_level": "Q4_1",
            "context_length": 2048,
            "embedding_length": 576,
        },
        "capabilities": ["completion"],
    }


async def test_models_have_openais_shape(gateway: kit.Running) -> None:
    body = (await gateway.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["smollm2", "smollm2:135m"]
    assert body["data"][0] == {"id": "smollm2", "object": "model", "created": 1767225600, "owned_by": "library"}


async def test_one_model_by_any_spelling(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    model = kit.model_entry("m", backend.url, names=["hf.co/user/repo:Q4_K_M"])
    async with kit.running(tmp_path / "m.json", kit.config([model], [kit.key_entry(gateway.key)]), gateway.key) as one:
        for path in ("hf.co/user/repo:Q4_K_M", "hf.co%2Fuser%2Frepo%3AQ4_K_M", "HF.co/user/repo:q4_k_m"):
            response = await one.get(f"/v1/models/{path}")
            assert response.status_code == 200
            assert response.json()["object"] == "model"
        missing = await one.get("/v1/models/hf.co/user/other")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_newest_first_and_empty_lists(gateway: kit.Running, tmp_path: Path) -> None:
    old, new = kit.model_entry("old"), kit.model_entry("new")
    new["info"]["modifiedAt"] = "2026-06-01T00:00:00Z"
    keys = [kit.key_entry(gateway.key)]
    async with kit.running(tmp_path / "n.json", kit.config([old, new], keys), gateway.key) as some:
        names = [model["name"] for model in (await some.get("/api/tags")).json()["models"]]
        assert names == ["new:latest", "old:latest"]
    async with kit.running(tmp_path / "e.json", kit.config([], keys), gateway.key) as empty:
        assert (await empty.get("/api/tags")).json() == {"models": []}
        assert (await empty.get("/v1/models")).json() == {"object": "list", "data": []}
        assert (await empty.get("/api/ps")).json() == {"models": []}


async def test_ps_is_what_the_runners_say_under_public_names(gateway: kit.Running, backend: kit.Backend) -> None:
    entry = {"name": "smollm2-7f3a", "model": "smollm2-7f3a", "size": 5, "expires_at": "2026-01-01T00:00:00Z"}
    backend.script = kit.replying({"models": [entry]})
    expected = {**entry, "name": "smollm2:latest", "model": "smollm2:latest"}
    assert (await gateway.get("/api/ps")).json() == {"models": [expected]}
    assert backend.requests[0].headers["authorization"] == f"Bearer {kit.CREDENTIAL}"


@pytest.mark.parametrize("answer", [b"not json", b'{"models":5}', b'{"models":[]}', b'{"models":["x"]}', b"[]"])
async def test_ps_survives_what_a_runner_says(gateway: kit.Running, backend: kit.Backend, answer: bytes) -> None:
    backend.script = kit.replying(answer)
    assert (await gateway.get("/api/ps")).json() == {"models": []}


async def test_ps_does_not_wait_for_a_silent_runner(
    gateway: kit.Running, backend: kit.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_request: kit.Received, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("paddock_runner.gateway.upstream.LIST_SECONDS", 0.2)
    backend.script = silent
    assert (await gateway.get("/api/ps")).json() == {"models": []}


@pytest.mark.parametrize(
    ("apis", "closed", "opened"),
    [
        (["ollama"], ["/v1/models", "/v1/messages"], ["/api/tags"]),
        (["openai"], ["/api/tags", "/api/ps", "/v1/messages"], ["/v1/models", "/", "/api/version", "/healthz"]),
        ([], ["/api/tags", "/v1/models"], ["/healthz"]),
    ],
)
async def test_a_dialect_that_is_off_does_not_exist(
    gateway: kit.Running, tmp_path: Path, apis: list[str], closed: list[str], opened: list[str]
) -> None:
    value = kit.config([], [kit.key_entry(gateway.key)], apis=apis)
    async with kit.running(tmp_path / "a.json", value, gateway.key) as other:
        for path in closed:
            assert (await other.get(path)).status_code == 404
        for path in opened:
            assert (await other.get(path)).status_code == 200
