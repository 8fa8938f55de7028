"""The official openai and ollama clients, unmodified, against the gateway."""

from __future__ import annotations

import json
from typing import Any

import ollama
import openai
import pytest
from tests.gateway import kit

CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "smollm2",
    "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}],
}
MESSAGES: Any = [{"role": "user", "content": "hello"}]


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def line(content: str, *, done: bool) -> bytes:
    value = {"model": "smollm2", "message": {"role": "assistant", "content": content}, "done": done}
    return json.dumps(value).encode() + b"\n"


def openai_client(gateway: kit.Running, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key or gateway.key, max_retries=0)


def ollama_client(gateway: kit.Running, key: str | None = None) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=gateway.url, headers={"Authorization": f"Bearer {key or gateway.key}"})


async def test_openai_streams(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(event(CHUNK), event(CHUNK), b"data: [DONE]\n\n", media="text/event-stream")
    async with openai_client(gateway) as client:
        stream: Any = await client.chat.completions.create(model="smollm2", messages=MESSAGES, stream=True)
        words = [part.choices[0].delta.content async for part in stream]
    assert words == ["Hi", "Hi"]


async def test_openai_sees_that_a_stream_broke(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(event(CHUNK), media="text/event-stream", then="cut")
    async with openai_client(gateway) as client:
        stream: Any = await client.chat.completions.create(model="smollm2", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="stopped in the middle"):
            [part async for part in stream]


async def test_openai_lists_and_understands_refusals(gateway: kit.Running) -> None:
    async with openai_client(gateway) as client:
        assert [model.id async for model in client.models.list()] == ["smollm2", "smollm2:135m"]
        assert (await client.models.retrieve("smollm2:135m")).id == "smollm2:135m"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nope", messages=MESSAGES)
        assert caught.value.code == "model_not_found"
    async with openai_client(gateway, kit.new_key()) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            await stranger.models.list()
        assert refused.value.code == "invalid_api_key"


async def test_ollama_streams(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(line("Hel", done=False), line("lo", done=False), line("", done=True))
    async with ollama_client(gateway) as client:
        stream = await client.chat("smollm2", MESSAGES, stream=True)
        assert "".join([part.message.content or "" async for part in stream]) == "Hello"


async def test_ollama_sees_that_a_stream_broke(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(line("Hel", done=False), then="cut")
    async with ollama_client(gateway) as client:
        stream = await client.chat("smollm2", MESSAGES, stream=True)
        with pytest.raises(ollama.ResponseError, match="stopped in the middle"):
            [part async for part in stream]


async def test_ollama_lists(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.replying({"models": [{"name": "i", "model": "i", "size": 1}]})
    async with ollama_client(gateway) as client:
        assert [model.model for model in (await client.list()).models] == ["smollm2:latest", "smollm2:135m"]
        assert [model.model for model in (await client.ps()).models] == ["smollm2:latest"]


async def test_ollama_understands_refusals(gateway: kit.Running) -> None:
    async with ollama_client(gateway) as client, ollama_client(gateway, kit.new_key()) as stranger:
        for call, status in (
            (client.chat("nope", MESSAGES), 404),
            (client.show("nope"), 404),
            (client.pull("smollm2"), 403),
            (client.delete("smollm2"), 403),
            (stranger.list(), 401),
        ):
            with pytest.raises(ollama.ResponseError) as caught:
                await call
            assert caught.value.status_code == status
