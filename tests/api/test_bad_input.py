"""Bodies that must not pass: each gets its status and a message that names what was wrong; no engine ever sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.support.front import Front, ScriptedEngine, front, served

from paddock_runner.api.body import MAX_BODY_BYTES

USER = {"role": "user", "content": "x"}
OPENAI: dict[str, Any] = {"model": "tiny", "messages": [USER]}
OLLAMA = OPENAI
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "x"}


@pytest.fixture
async def at() -> AsyncIterator[Front]:
    async with front() as at:
        yield at
        assert at.engine.requests == []


RAW = [
    (b"", 400, "missing request body"),
    (b"  \n", 400, "missing request body"),
    (b"{", 400, "invalid JSON"),
    (b"[]", 400, "must be a JSON object"),
    (b'"x"', 400, "must be a JSON object"),
    (b"null", 400, "must be a JSON object"),
    (b'{"model":"tiny"} x', 400, "invalid JSON"),
    (b'{"model":"tiny","model":"tiny"}', 400, "duplicate key"),
    (b'{"model":"tiny","messages":[{"role":"user","content":"\xff"}]}', 400, "UTF-8"),
    ('{"model":"tiny"}'.encode("utf-16"), 400, "UTF-8"),
    (b"\xef\xbb\xbf{}", 400, "byte order mark"),
    (b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}', 400, "surrogate"),
    (b'{"model":"tiny","temperature":NaN}', 400, "NaN"),
    (b'{"model":"tiny","temperature":1e999}', 400, "too large"),
    (b'{"model":"tiny","seed":' + b"9" * 5000 + b"}", 400, "digits"),
    (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400, "deeper than 64"),
    (b'{"a":"' + b"x" * MAX_BODY_BYTES + b'"}', 413, f"larger than {MAX_BODY_BYTES}"),
]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/show", "/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(("body", "status", "words"), RAW, ids=range(len(RAW)))
async def test_bodies_that_are_no_json_object(at: Front, path: str, body: bytes, status: int, words: str) -> None:
    reply = await at.client.post(path, content=body)
    assert reply.status_code == status
    told = reply.json()["error"]
    assert words in (told if path.startswith("/api/") else told["message"])


OPENAI_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [USER] * 2049}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        "messages.0.content",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 257}]}, "messages.0.content"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages.0"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 2.01}, "temperature"),
    ({"temperature": -0.01}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 2**63}, "max_tokens"),
    ({"max_tokens": 5.5}, "max_tokens"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["x" * 257]}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {str(number): 1 for number in range(1025)}}, "logit_bias"),
    ({"n": 2}, "n"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"n": "5"}, "n"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"functions": [{}]}, "functions"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": "json"}, "response_format"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"chat_template": "{{ messages }}"}, "chat_template"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"model": 5}, "model"),
]


@pytest.mark.parametrize(("change", "param"), OPENAI_CHAT, ids=[json.dumps(change)[:40] for change, _ in OPENAI_CHAT])
async def test_openai_chat_names_the_field(at: Front, change: dict[str, Any], param: str) -> None:
    reply = await at.client.post("/v1/chat/completions", json={**OPENAI, **change})
    error = reply.json()["error"]
    assert reply.status_code == 400, error
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param), error
    assert param.split(".")[-1] in error["message"]
    assert error["code"] in ("invalid_value", "unsupported_parameter")


COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["a", "b"]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [[1, 2]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"echo": True}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"best_of": 3}, "best_of"),
    ({"n": 3}, "n"),
]


@pytest.mark.parametrize(("change", "param"), COMPLETIONS, ids=[json.dumps(change) for change, _ in COMPLETIONS])
async def test_openai_completions_name_the_field(at: Front, change: dict[str, Any], param: str) -> None:
    reply = await at.client.post("/v1/completions", json={**TEXT, **change})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(param)


OLLAMA_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"messages": "x"}, "messages"),
    ({"messages": [USER] * 2049}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "tools"),
    ({"messages": [{"role": "user", "content": "x", "images": ["AA=="]}]}, "vision"),
    ({"options": []}, "options"),
    ({"options": {"temperature": "x"}}, 'option "temperature" must be of type float32'),
    ({"options": {"top_k": 2**40}}, "top_k"),
    ({"options": {"num_predict": True}}, 'option "num_predict" must be of type integer'),
    ({"options": {"stop": ["a"] * 17}}, "stop"),
    ({"stream": 1}, "stream"),
    ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
    ({"top_logprobs": -1}, "top_logprobs must be between 0 and 20"),
    ({"logprobs": "yes"}, "logprobs"),
    ({"keep_alive": True}, "Unsupported type: 'bool'"),
    ({"keep_alive": "1y"}, 'time: invalid duration "1y"'),
    ({"think": "high"}, "does not support thinking"),
    ({"format": "xml"}, 'invalid format: "xml"; expected "json" or a valid JSON Schema object'),
    ({"format": 5}, "invalid format: 5"),
    ({"tools": [{"function": {"name": "f"}}]}, "does not support tools"),
    ({"model": "x" * 4097}, "model"),
]


@pytest.mark.parametrize(("change", "words"), OLLAMA_CHAT, ids=[json.dumps(change)[:40] for change, _ in OLLAMA_CHAT])
async def test_ollama_chat_says_what_is_wrong(at: Front, change: dict[str, Any], words: str) -> None:
    reply = await at.client.post("/api/chat", json={**OLLAMA, **change})
    assert reply.status_code == 400
    assert words in reply.json()["error"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"context": [-1]}, "context.0"),
        ({"context": "x"}, "context"),
        ({"context": [2**31]}, "context.0"),
        ({"raw": True, "context": [1]}, "raw mode"),
        ({"images": ["AA"]}, "vision"),
        ({"prompt": 5}, "prompt"),
    ],
)
async def test_ollama_generate_says_what_is_wrong(at: Front, change: dict[str, Any], words: str) -> None:
    reply = await at.client.post("/api/generate", json={**TEXT, **change})
    assert reply.status_code == 400
    assert words in reply.json()["error"]


@pytest.mark.parametrize(
    "name", ["../x", "other", "tiny:other", "tiny@sha256:00", "tiny/tiny", "x" * 600, "TINY:", " tiny"]
)
async def test_names_that_are_not_this_model(at: Front, name: str) -> None:
    assert (await at.client.post("/api/chat", json={**OLLAMA, "model": name})).status_code == 404
    reply = await at.client.post("/v1/chat/completions", json={**OPENAI, "model": name})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("header", [{"content-encoding": "gzip"}, {"content-type": "multipart/form-data; boundary=x"}])
async def test_encodings_that_are_not_read(at: Front, header: dict[str, str]) -> None:
    reply = await at.client.post("/api/chat", content=json.dumps(OLLAMA), headers=header)
    assert reply.status_code == 415


async def test_refusals_are_counted_by_reason(at: Front) -> None:
    for body in (
        {**OLLAMA, "options": {"top_k": "x"}},
        {**OLLAMA, "tools": [{"function": {"name": "f"}}]},
        {**OLLAMA, "model": "other"},
    ):
        await at.client.post("/api/chat", json=body)
    for reason in ("schema", "unsupported", "not_found"):
        assert at.sample("paddock_runner_input_rejected_total", reason=reason) == 1


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_content_type_is_not_asked_for(content_type: str) -> None:
    async with front() as at:
        headers = {"content-type": content_type} if content_type else {}
        reply = await at.client.post("/api/chat", content=json.dumps({**OLLAMA, "stream": False}), headers=headers)
        assert reply.status_code == 200


def test_ten_megabytes_with_and_without_a_length_on_a_real_connection() -> None:
    body = b'{"a":"' + b"x" * 10_000_000 + b'"}'

    def chunks() -> Any:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    with served(ScriptedEngine()) as (url, _), httpx.Client(base_url=url) as client:
        for content in (body, chunks()):
            try:
                reply = client.post("/v1/chat/completions", content=content)
            except httpx.WriteError:  # the server may close before all of it was sent
                continue
            assert reply.status_code == 413
            assert reply.json()["error"]["code"] == "request_too_large"
        assert client.get("/healthz").status_code == 200
