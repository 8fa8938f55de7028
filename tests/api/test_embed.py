"""Vectors and scores over HTTP: the three dialects' forms, empty inputs, bounds, errors, and who may ask what."""

from __future__ import annotations

import asyncio
import base64
import json
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.front import EmbeddingEngine, Front, ScriptedEngine, forever, front
from tests.support.waiting import until

from paddock_runner.core.embedding import EmbedEvent, EmbedRequest
from paddock_runner.core.generation import (
    ContextExceededError,
    DrainingError,
    EngineFailedError,
    InvalidRequestError,
    QueueFullError,
    Segment,
)

BY_TENANT: list[tuple[str, dict[str, str]]] = [
    ("/api/embed", {"input": "x"}),
    ("/api/embeddings", {"prompt": "x"}),
    ("/v1/embeddings", {"input": "x"}),
]
MISSING = "not found, try pulling it first"


@asynccontextmanager
async def embedding(engine: EmbeddingEngine | None = None, mode: str = "embed", **config: Any) -> AsyncIterator[Front]:
    async with front(engine or EmbeddingEngine(), mode=mode, **config) as at:
        yield at


def wanted(at: Front) -> EmbedRequest:
    assert isinstance(at.engine, EmbeddingEngine)
    return at.engine.wanted[-1]


async def test_ollama_embed() -> None:
    async with embedding() as at:
        reply = await at.client.post("/api/embed", json={"model": "tiny", "input": ["one", "", "three"]})
        assert reply.status_code == 200
        body = reply.json()
        assert list(body) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
        assert body["embeddings"] == [[0.75, -0.5]] * 3
        assert body["prompt_eval_count"] == 12
        assert body["total_duration"] >= body["load_duration"] > 0
        asked = wanted(at)
        assert asked.texts == (Segment("one", True), Segment("", True), Segment("three", True))
        assert (asked.truncate, asked.dimensions, asked.context_limit, asked.query) == (True, 0, 0, None)
        await at.client.post(
            "/api/embed",
            json={"model": "tiny", "input": "x", "truncate": False, "dimensions": 7, "options": {"num_ctx": 99}},
        )
        asked = wanted(at)
        assert (asked.truncate, asked.dimensions, asked.context_limit, asked.tenant) == (False, 7, 99, "")
        for path, body in BY_TENANT:
            await at.client.post(path, json={"model": "tiny", **body}, headers={"X-Paddock-Tenant": "key-1"})
            assert wanted(at).tenant == "key-1"


@pytest.mark.parametrize("given", ["", [], None])
async def test_ollamas_empty_inputs_load_the_model(given: Any) -> None:
    async with embedding() as at:
        reply = await at.client.post("/api/embed", json={"model": "tiny", "input": given, "keep_alive": "5m"})
        assert reply.json() == {"model": "tiny", "embeddings": []}
        assert at.engine.calls == ["load"]
        assert at.engine.keep_alives[-1] == 300


async def test_ollamas_older_route() -> None:
    async with embedding() as at:
        reply = await at.client.post("/api/embeddings", json={"model": "tiny", "prompt": "x", "keep_alive": 9})
        assert reply.json() == {"embedding": [0.75, -0.5]}
        assert wanted(at).truncate is False
        assert at.engine.keep_alives[-1] == 9
        reply = await at.client.post("/api/embeddings", json={"model": "tiny", "prompt": ""})
        assert reply.json() == {"embedding": []}


@pytest.mark.parametrize(("given", "texts"), [
    ("", (Segment("", True),)),
    ("x", (Segment("x", True),)),
    (["x", ""], (Segment("x", True), Segment("", True))),
    ([5, 6], (Segment(tokens=(5, 6)),)),
    ([[5], [6, 7]], (Segment(tokens=(5,)), Segment(tokens=(6, 7)))),
])  # fmt: skip
async def test_openai_inputs(given: Any, texts: tuple[Segment, ...]) -> None:
    async with embedding() as at:
        reply = await at.client.post("/v1/embeddings", json={"model": "tiny", "input": given})
        body = reply.json()
        assert wanted(at).texts == texts
        assert [entry["index"] for entry in body["data"]] == list(range(len(texts)))
        assert body["data"][0] == {"object": "embedding", "embedding": [0.75, -0.5], "index": 0}
        tokens = sum(3 + index for index in range(len(texts)))
        assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
        assert (body["object"], body["model"]) == ("list", "tiny")


async def test_base64_is_little_endian_float32() -> None:
    async with embedding(EmbeddingEngine(vector=(1.0, -2.5, 0.1))) as at:
        reply = await at.client.post(
            "/v1/embeddings", json={"model": "tiny", "input": "x", "encoding_format": "base64", "dimensions": 2}
        )
        data = base64.b64decode(reply.json()["data"][0]["embedding"])
        assert array("f", data).tolist() == array("f", (1.0, -2.5, 0.1)).tolist()
        assert wanted(at).dimensions == 2


async def test_numbers_survive_as_text() -> None:
    numbers = tuple(array("f", (1 / 3, 1e-30, -123456.789, 3.4e38, 0.0)))
    async with embedding(EmbeddingEngine(vector=numbers)) as at:
        reply = await at.client.post("/api/embed", json={"model": "tiny", "input": "x"})
        assert array("f", reply.json()["embeddings"][0]).tolist() == list(numbers)


async def test_many_numbers_are_written_beside_the_event_loop() -> None:
    async with embedding(EmbeddingEngine(vector=(0.5,) * 20_000)) as at:
        reply = await at.client.post("/v1/embeddings", json={"model": "tiny", "input": ["a", "b"]})
        assert [len(entry["embedding"]) for entry in reply.json()["data"]] == [20_000, 20_000]


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("/api/embed", {"model": "", "input": "x"}, 404, "model '' not found"),
    ("/api/embed", {"model": "nope", "input": "x"}, 404, f'model "nope" {MISSING}'),
    ("/api/embed", {"model": "tiny", "input": 5}, 400, "invalid input type"),
    ("/api/embed", {"model": "tiny", "input": [1, 2]}, 400, "invalid input type"),
    ("/api/embed", {"model": "tiny", "input": "x", "dimensions": -1}, 400, "dimensions"),
    ("/api/embed", {"model": "tiny", "input": "x", "keep_alive": "soon"}, 400, "soon"),
    ("/api/embed", {"model": "tiny", "input": "x", "options": {"num_ctx": "a"}}, 400, "num_ctx"),
    ("/api/embed", {"model": "tiny", "input": ["x"] * 2049}, 400, "has 2049 texts, at most 2048"),
    ("/api/embeddings", {"prompt": "x"}, 400, "model is required"),
    ("/api/embeddings", {"model": "nope", "prompt": "x"}, 404, f'model "nope" {MISSING}'),
    ("/v1/embeddings", {"model": "tiny"}, 400, "invalid input"),
    ("/v1/embeddings", {"model": "tiny", "input": []}, 400, "invalid input"),
    ("/v1/embeddings", {"model": "tiny", "input": {"a": 1}}, 400, "invalid input type"),
    ("/v1/embeddings", {"model": "tiny", "input": [[]]}, 400, "0 token ids"),
    ("/v1/embeddings", {"model": "tiny", "input": [1, "x"]}, 400, "invalid input type"),
    ("/v1/embeddings", {"model": "tiny", "input": [True]}, 400, "invalid input type"),
    ("/v1/embeddings", {"model": "tiny", "input": [-1]}, 400, "invalid input type"),
    ("/v1/embeddings", {"model": "tiny", "input": "x", "dimensions": 577}, 400, "is 577, but the model's vectors"),
    ("/v1/embeddings", {"model": "tiny", "input": "x", "encoding_format": "hex"}, 400, "encoding_format"),
    ("/v1/embeddings", {"model": "nope", "input": "x"}, 404, "does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "words"), BAD)
async def test_bad_requests_name_what_is_wrong(path: str, body: dict[str, Any], status: int, words: str) -> None:
    async with embedding() as at:
        reply = await at.client.post(path, json=body)
        assert reply.status_code == status
        error = reply.json()["error"]
        assert words in (error if path.startswith("/api") else error["message"])


@pytest.mark.parametrize(("failure", "status", "words"), [
    (ContextExceededError(700, 512), 400, "the input length exceeds the context length: a text has 700 tokens, the"),
    (ContextExceededError(700, 512), 400, "the limit is 512; shorten it"),
    (InvalidRequestError("input", "embedding contains NaN or Inf values"), 400, "NaN or Inf"),
    (EngineFailedError("the engine was lost"), 503, "the engine was lost"),
    (QueueFullError(64, 2.0), 503, "server busy, please try again.  maximum pending requests exceeded"),
    (DrainingError(), 503, "shutting down"),
])  # fmt: skip
async def test_one_failing_text_fails_the_request(failure: Exception, status: int, words: str) -> None:
    async with embedding(EmbeddingEngine(failure=failure)) as at:
        reply = await at.client.post("/api/embed", json={"model": "tiny", "input": ["a", "b"]})
        assert reply.status_code == status
        assert words in reply.json()["error"]


async def test_a_client_that_leaves_cancels() -> None:
    class Slow(EmbeddingEngine):
        async def embed(self, request: EmbedRequest) -> AsyncIterator[EmbedEvent]:
            self.open_requests += 1
            try:
                await forever()
                yield  # type: ignore[misc]
            finally:
                self.cancelled += 1

    async with embedding(Slow()) as at:
        call = asyncio.create_task(_leave_soon(at))
        await until(lambda: at.engine.cancelled == 1)
        await call
        assert (
            at.sample("paddock_runner_requests_total", model="tiny", operation="embeddings", outcome="cancelled") == 1
        )


async def _leave_soon(at: Front) -> None:
    """Call the application as a server does whose client hangs up once the request is there."""
    left = asyncio.Event()
    body = json.dumps({"model": "tiny", "input": "x"}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await until(lambda: at.engine.open_requests == 1)
        left.set()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"nobody is there to read {message}")

    scope = {
        "type": "http", "method": "POST", "path": "/api/embed", "raw_path": b"/api/embed", "root_path": "",
        "headers": [], "query_string": b"", "http_version": "1.1", "scheme": "http",
        "server": ("runner", 80), "client": ("c", 1),
    }  # fmt: skip
    await at.app(scope, receive, send)
    assert left.is_set()


async def test_rerank() -> None:
    engine = EmbeddingEngine(scores={"cold": -3.5, "warm": 0.5, "hot": 2.0})
    async with embedding(engine, mode="rerank") as at:
        documents = ["cold", {"text": "hot"}, "warm"]
        asked = {"model": "tiny", "query": "heat", "documents": documents}
        body = (await at.client.post("/v1/rerank", json=asked)).json()
        assert body == {
            "model": "tiny", "object": "list", "usage": {"prompt_tokens": 12, "total_tokens": 12},
            "results": [
                {"index": 1, "relevance_score": 2.0}, {"index": 2, "relevance_score": 0.5},
                {"index": 0, "relevance_score": -3.5},
            ],
        }  # fmt: skip
        assert wanted(at).query == "heat"
        assert wanted(at).texts == (Segment("cold"), Segment("hot"), Segment("warm"))
        body = (await at.client.post("/v1/rerank", json={**asked, "top_n": 1, "return_documents": True})).json()
        assert body["results"] == [{"index": 1, "relevance_score": 2.0, "document": {"text": "hot"}}]


@pytest.mark.parametrize(("change", "words"), [
    ({"documents": []}, "documents"), ({"documents": [5]}, "documents"),
    ({"query": ""}, "query"), ({"top_n": 0}, "top_n"),
])  # fmt: skip
async def test_bad_rerank_requests(change: dict[str, Any], words: str) -> None:
    async with embedding(mode="rerank") as at:
        reply = await at.client.post("/v1/rerank", json={"model": "tiny", "query": "q", "documents": ["d"], **change})
        assert reply.status_code == 400
        assert words in reply.json()["error"]["message"]


WRONG: list[tuple[str, str, dict[str, Any], str]] = [
    ("generate", "/api/embed", {"input": "x"}, "make a Model of such a source with spec.serving.mode: Embed"),
    ("generate", "/api/embeddings", {"prompt": "x"}, "spec.serving.mode: Embed"),
    ("generate", "/v1/embeddings", {"input": "x"}, "spec.serving.mode: Embed"),
    ("generate", "/v1/rerank", {"query": "q", "documents": ["d"]}, "spec.serving.mode: Rerank"),
    ("rerank", "/v1/embeddings", {"input": "x"}, '"tiny" does not support embeddings'),
    ("embed", "/v1/rerank", {"query": "q", "documents": ["d"]}, '"tiny" does not support reranking'),
    ("embed", "/api/chat", {"messages": [{"role": "user", "content": "x"}]}, '"tiny" does not support chat'),
    ("embed", "/api/generate", {"prompt": "x"}, '"tiny" does not support generate'),
    ("embed", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, '"tiny" does not support chat'),
    ("rerank", "/v1/completions", {"prompt": "x"}, '"tiny" does not support generate'),
]


@pytest.mark.parametrize(("mode", "path", "body", "words"), WRONG)
async def test_a_model_says_what_it_is_for(mode: str, path: str, body: dict[str, Any], words: str) -> None:
    async with embedding(mode=mode) as at:
        reply = await at.client.post(path, json={"model": "tiny", **body})
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert words in (error if path.startswith("/api") else error["message"])


async def test_stopping_an_embedding_model_unloads_it() -> None:
    async with embedding() as at:
        reply = await at.client.post("/api/generate", json={"model": "tiny", "keep_alive": 0})
        assert reply.json()["done_reason"] == "unload"


async def test_metrics() -> None:
    async with embedding() as at:
        await at.client.post("/v1/embeddings", json={"model": "tiny", "input": ["a", "b"]})
        assert at.sample("paddock_runner_requests_total", model="tiny", operation="embeddings", outcome="ok") == 1
        labels = {
            "gen_ai_operation_name": "embeddings", "gen_ai_provider_name": "llama_cpp", "gen_ai_request_model": "tiny",
            "gen_ai_response_model": "tiny", "gen_ai_token_type": "input",
        }  # fmt: skip
        assert at.sample("gen_ai_client_token_usage_sum", **labels) == 7
        assert isinstance(at.engine, ScriptedEngine)
        assert at.engine.open_requests == 0
