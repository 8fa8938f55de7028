"""Streams on a real connection: piece by piece, cancelled when the client leaves, bounded when it does not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from typing import Any

import httpx
import pytest
from tests.support.front import FINISHED, ScriptedEngine, Step, answer, events_of, forever, front, lines_of, served
from tests.support.waiting import until_sync

from paddock_runner.core.generation import Delta, EngineFailedError, Started

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
PATHS = ["/api/chat", "/v1/chat/completions"]


class Gate:
    """A step of a script that waits until the test opens it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    async def __call__(self) -> None:
        self.reached.set()
        while not self.open.is_set():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("path", PATHS)
def test_each_piece_arrives_before_the_next_is_made(path: str) -> None:
    gate = Gate()
    engine = ScriptedEngine([Started(7, 0, ()), Delta("first", (1,)), gate, Delta("second", (2,)), FINISHED])
    with (
        served(engine) as (url, _),
        httpx.Client(base_url=url) as client,
        client.stream("POST", path, json=CHAT) as reply,
    ):
        parts = reply.iter_text()
        seen = ""
        while "first" not in seen:
            seen += next(parts)
        assert "second" not in seen
        gate.open.set()
        assert "second" in "".join(parts)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "script", [[forever], [Started(7, 0, ()), forever], [Started(7, 0, ()), Delta("a", (1,)), forever]]
)
def test_a_client_that_leaves_cancels_its_generation(path: str, stream: bool, script: list[Step]) -> None:
    engine = ScriptedEngine(script)
    with served(engine) as (url, runner):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            body = json.dumps({**CHAT, "stream": stream}).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            until_sync(lambda: engine.open_requests)
        until_sync(lambda: engine.cancelled == 1 and engine.open_requests == 0, 2.0)
        registry = runner.metrics.registry
        phase = ("queue", "prefill", "decode")[len(script) - 1]
        until_sync(lambda: registry.get_sample_value("paddock_runner_client_disconnects_total", {"phase": phase}) == 1)
        labels = {"model": "tiny", "operation": "chat", "outcome": "cancelled"}
        assert registry.get_sample_value("paddock_runner_requests_total", labels) == 1


def test_a_client_that_does_not_read_is_not_written_to_without_end() -> None:
    pieces: list[Step] = [Delta("x" * 65_536, (1,)) for _ in range(2000)]
    engine = ScriptedEngine([Started(7, 0, ()), *pieces, FINISHED])
    with served(engine) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps(CHAT).encode()
        connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until_sync(lambda: engine.open_requests == 1)
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert engine.open_requests == 1, "the generator waits for the reader, it does not buffer 128 MB"
        connection.close()
        until_sync(lambda: engine.open_requests == 0, 5.0)


async def test_errors_after_the_first_byte_end_the_stream_in_the_dialect() -> None:
    script: list[Step] = [Started(7, 0, ()), Delta("Hel", (1,)), EngineFailedError("the engine was lost")]
    async with front(ScriptedEngine(script)) as at:
        lines = lines_of((await at.client.post("/api/chat", json=CHAT)).text)
        assert lines[-1] == {"error": "the engine was lost"}
        events = events_of((await at.client.post("/v1/chat/completions", json=CHAT)).text)
        assert events[-1]["error"]["code"] == "engine_failed"
        assert "[DONE]" not in events


async def test_many_streams_at_once_do_not_mix() -> None:
    async with front(ScriptedEngine(answer(*"abcdef"))) as at:
        replies = await asyncio.gather(*(at.client.post("/api/chat", json=CHAT) for _ in range(20)))
        texts = ["".join(line["message"]["content"] for line in lines_of(reply.text)) for reply in replies]
        assert texts == ["abcdef"] * 20
        assert at.engine.open_requests == 0


async def test_an_answer_without_text_is_still_an_answer() -> None:
    async with front(ScriptedEngine([Started(7, 0, ()), Delta("", (1,)), FINISHED])) as at:
        lines = lines_of((await at.client.post("/api/chat", json=CHAT)).text)
        assert [line["done"] for line in lines] == [True]
        events = events_of((await at.client.post("/v1/chat/completions", json=CHAT)).text)
        assert [event["choices"][0]["delta"] for event in events[:-1]] == [{"role": "assistant", "content": ""}, {}]


async def test_a_generator_is_closed_even_if_nobody_ever_read_it() -> None:
    async with front(ScriptedEngine([forever])) as at:
        request = asyncio.create_task(at.client.post("/api/chat", json=CHAT))
        while not at.engine.open_requests:
            await asyncio.sleep(0.005)
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        assert at.engine.open_requests == 0
        assert at.engine.cancelled == 1
