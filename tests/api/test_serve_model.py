"""`paddock-runner serve` as a process with real weights: answers, limits, clients that leave, changes while it runs."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.support.serving import CONTEXT, CREDENTIAL, LONG, SLOTS, Serving, serving, smollm2_cache
from tests.support.waiting import alive, until_sync

pytestmark = [pytest.mark.model, pytest.mark.e2e]

CAPITAL = {"role": "user", "content": "What is the capital of France? Answer in one word."}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return smollm2_cache(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, cache: tuple[Path, str]) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("shared"), cache) as at:
        until_sync(lambda: at.ready()["ready"], 30)
        yield at


def test_readyz_shows_what_is_in_force(at: Serving, cache: tuple[Path, str]) -> None:
    body = at.ready()
    assert body["config"] == hashlib.sha256(at.file.read_bytes()).hexdigest()
    assert (body["digest"], body["state"], body["restarts"]) == (cache[1], "ready", 0)
    assert body["memory"]["weights"] > 50_000_000
    assert body["memory"]["kv"] > 10_000_000
    assert body["memory"]["resident"] > 50_000_000


def test_a_chat_is_answered_with_sense(at: Serving) -> None:
    with openai.OpenAI(base_url=f"http://{at.address}/v1", api_key=CREDENTIAL) as client:
        messages: Any = [{"role": "user", "content": "What is 2 plus 2? Say the number."}]
        reply = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=24)
        text = reply.choices[0].message.content
        assert text is not None
        assert "4" in text
        stream = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=24, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text, "greedy, so equal"


def test_ollama_streams_with_numbers(at: Serving) -> None:
    body = {"model": "smollm2:135m", "messages": [CAPITAL], "options": {"num_predict": 8}}
    with at.client.stream("POST", "/api/chat", json=body) as reply:
        lines = [json.loads(line) for line in reply.iter_lines()]
    last = lines[-1]
    assert last["done"] is True
    assert last["eval_count"] == 8 or last["done_reason"] == "stop"
    assert last["prompt_eval_count"] > 10
    assert min(last[name] for name in ("total_duration", "prompt_eval_duration", "eval_duration", "load_duration")) > 0


def test_control_tokens_of_a_user_do_not_end_the_turn(at: Serving) -> None:
    def tokens(content: str) -> int:
        body = {"model": "smollm2", "messages": [{"role": "user", "content": content}], "stream": False}
        reply = at.client.post("/api/chat", json={**body, "options": {"num_predict": 1}})
        return int(reply.json()["prompt_eval_count"])

    assert tokens("a<|im_end|>b") > tokens("ab") + 3, "the spelling is text of several tokens"
    assert tokens("a <b>word</b> c") == tokens("a <i>word</i> c"), "markup that is no control token costs nothing"


def test_context_goes_round(at: Serving) -> None:
    body = {"model": "smollm2", "prompt": "My name is Ada.", "stream": False, "options": {"num_predict": 4}}
    first = at.client.post("/api/generate", json=body).json()
    again = at.client.post("/api/generate", json={**body, "prompt": "x", "context": first["context"]}).json()
    assert again["prompt_eval_count"] > len(first["context"])
    assert again["context"][: len(first["context"])] == first["context"]


def test_logprobs_are_probabilities(at: Serving) -> None:
    body = {"model": "smollm2", "messages": [CAPITAL], "max_tokens": 3, "logprobs": True, "top_logprobs": 5}
    content = at.client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    for entry in content:
        assert entry["logprob"] <= 0
        assert entry["logprob"] == pytest.approx(entry["top_logprobs"][0]["logprob"]), "greedy takes the likeliest"


def test_a_prompt_that_is_too_long_names_both_numbers(at: Serving) -> None:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "word " * 3000}]}
    reply = at.client.post("/v1/chat/completions", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "context_length_exceeded")
    numbers = [int(word) for word in error["message"].split() if word.isdecimal()]
    assert numbers[0] > 3000
    assert numbers[1] == CONTEXT
    reply = at.client.post("/api/chat", json={**body, "stream": True, "options": {"num_ctx": 64}})
    assert reply.status_code == 400
    assert "context length is 64 tokens" in reply.json()["error"]


@pytest.mark.parametrize("bias", [{"999999": 1}])
def test_what_only_the_vocabulary_can_judge_is_a_400(at: Serving, bias: dict[str, float]) -> None:
    body = {"model": "smollm2", "messages": [CAPITAL], "logit_bias": bias, "max_tokens": 1}
    reply = at.client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "logit_bias"
    reply = at.client.post("/v1/completions", json={"model": "smollm2", "prompt": [999_999], "max_tokens": 1})
    assert reply.status_code == 400


def test_without_the_credential_nobody_gets_in(at: Serving) -> None:
    assert httpx.get(f"http://{at.address}/api/tags").status_code == 401
    assert httpx.get(f"http://{at.address}/metrics").status_code == 200


def _left(at: Serving, count: int) -> list[socket.socket]:
    """Start `count` long streams and wait until each has a slot or waits for one."""
    host, _, port = at.address.partition(":")
    body = json.dumps(LONG).encode()
    lines = ["POST /api/generate HTTP/1.1", "Host: x", f"Authorization: Bearer {CREDENTIAL}"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    connections = []
    for _ in range(count):
        connections.append(socket.create_connection((host, int(port))))
        connections[-1].sendall(head.encode() + body)
    running = 'paddock_runner_requests_running{model="smollm2"}'
    until_sync(lambda: at.metric(running) == min(count, SLOTS), 10)
    return connections


def test_clients_that_leave_free_their_slots(at: Serving) -> None:
    for connection in _left(at, 3):
        connection.close()
    began = time.monotonic()
    until_sync(lambda: at.metric('paddock_runner_requests_running{model="smollm2"}') == 0, 5)
    assert time.monotonic() - began < 2
    body = {"model": "smollm2", "prompt": "x", "raw": True, "stream": False, "options": {"num_predict": 1}}
    assert at.client.post("/api/generate", json=body).status_code == 200


def test_hot_configuration_without_a_restart(at: Serving) -> None:
    pid = at.engine_pid()
    digest = at.write(names=["renamed"], system="Say only: yes.", parameters={"num_predict": 2})
    until_sync(lambda: at.ready()["config"] == digest, 3)
    assert at.client.get("/v1/models").json()["data"][0]["id"] == "renamed:latest"
    assert at.client.post("/api/chat", json={"model": "smollm2", "messages": [CAPITAL]}).status_code == 404
    reply = at.client.post("/api/chat", json={"model": "renamed", "messages": [CAPITAL], "stream": False}).json()
    assert reply["eval_count"] == 2
    before = at.write(names=[])
    at.log.find(lambda line: "configuration refused" in line, 5)
    assert at.ready()["config"] == digest != before
    assert at.metric("paddock_runner_configuration_errors_total") == 1
    restored = at.write()
    until_sync(lambda: at.ready()["config"] == restored, 3)
    assert at.engine_pid() == pid


def test_unload_and_load(at: Serving) -> None:
    pid = at.engine_pid()
    reply = at.client.post("/api/generate", json={"model": "smollm2", "keep_alive": 0}).json()
    assert reply["done_reason"] == "unload"
    until_sync(lambda: at.ready()["state"] == "unloaded" and not alive(pid), 10)
    assert at.ready()["ready"] is True
    assert at.client.get("/api/ps").json() == {"models": []}
    body = {"model": "smollm2", "prompt": "x", "raw": True, "stream": False, "options": {"num_predict": 1}}
    assert at.client.post("/api/generate", json=body).status_code == 200, "a request loads it again"
    assert at.client.get("/api/ps").json()["models"][0]["name"] == "smollm2:latest"
