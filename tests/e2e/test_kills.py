"""Signals and kill -9, each during a stream: who dies, who answers, who comes back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.support.up import Up, cli, endpoint, model, write
from tests.support.waiting import alive, descendants, until_sync

Start = Callable[..., Up]
LONG = {"serving": {"contextLength": 60000}}


@pytest.fixture
def running(up: Start, tmp_path: Path) -> Up:
    write(tmp_path / "manifests", model("tiny", **LONG), endpoint("main", "tiny"))
    return up().ready()


class Stream:
    """An answer that runs; `lines` grows by `read`."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.lines: list[dict[str, object]] = []

    def read(self, count: int) -> None:
        for _ in range(count):
            self.lines.append(json.loads(next(self._lines)))

    def rest(self) -> list[dict[str, object]]:
        """To the end of the answer, whatever that is."""
        for line in self._lines:
            self.lines.append(json.loads(line))
        return self.lines


@contextmanager
def streaming(up: Up, tokens: int) -> Iterator[Stream]:
    """A stream of `tokens` that has begun."""
    body = {"model": "tiny", "prompt": "hello", "options": {"num_predict": tokens}}
    with up.client() as http, http.stream("POST", "/api/generate", json=body) as response:
        assert response.status_code == 200
        stream = Stream(response)
        stream.read(3)
        yield stream


def answers_again(up: Up, seconds: float = 20.0) -> None:
    def works() -> bool:
        body = {"model": "tiny", "prompt": "hello", "stream": False, "options": {"num_predict": 3}}
        try:
            with up.client() as http:
                return http.post("/api/generate", json=body).status_code == 200
        except httpx.HTTPError:
            return False

    until_sync(works, seconds)


def engine_of(up: Up) -> int:
    (runner,) = up.children("serve")
    (engine,) = [pid for pid in descendants(runner) if "paddock_runner.engine.child" in _words(pid)]
    return engine


def _words(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")


def test_kill_of_the_engine_gives_a_typed_error_and_a_new_engine(running: Up) -> None:
    engine, runner = engine_of(running), running.children("serve")
    with streaming(running, 50_000) as stream:
        os.kill(engine, signal.SIGKILL)
        began = time.monotonic()
        last = stream.rest()[-1]
        assert "error" in last, last
        assert time.monotonic() - began < 2
    answers_again(running)
    assert running.children("serve") == runner, "the front survives its engine"
    assert engine_of(running) != engine


def test_kill_of_the_runner_ends_the_stream_with_an_error_and_it_comes_back(running: Up) -> None:
    (runner,) = running.children("serve")
    (gateway,) = running.children("gateway")
    with streaming(running, 50_000) as stream:
        below = descendants(runner)
        os.kill(runner, signal.SIGKILL)
        began = time.monotonic()
        try:
            last = stream.rest()[-1]
            assert "error" in last, last
        except httpx.RemoteProtocolError:
            pass
        assert time.monotonic() - began < 2
    until_sync(lambda: not any(alive(pid) for pid in below), 2)
    answers_again(running)
    assert running.children("gateway") == [gateway]
    found = json.loads(cli(running.home, "get", "models", "tiny", "-o", "json").stdout)
    assert found["status"]["conditions"][0]["type"] == "Ready"


def test_kill_of_the_gateway_keeps_the_address_and_the_runner(running: Up) -> None:
    (gateway,) = running.children("gateway")
    runner = running.children("serve")
    with streaming(running, 50_000) as stream:
        os.kill(gateway, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            stream.rest()
    answers_again(running)
    assert running.children("serve") == runner
    assert running.children("gateway") != [gateway]


def test_kill_of_up_ends_the_whole_tree(running: Up) -> None:
    with streaming(running, 50_000) as stream:
        below = descendants(running.pid)
        assert len(below) >= 3
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            stream.rest()
        until_sync(lambda: not any(alive(pid) for pid in below), 2)
    running.process.wait(5)
    found = json.loads(cli(running.home, "get", "models", "tiny", "-o", "json").stdout)
    ready = found["status"]["conditions"][0]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "Unknown", "NotRunning")


def test_a_home_of_a_killed_up_starts_again(running: Up, up: Start) -> None:
    os.kill(running.pid, signal.SIGKILL)
    running.process.wait(5)
    again = up()
    again.key = running.key
    again.ready(key=False)
    answers_again(again)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_running_answer(running: Up, number: int) -> None:
    with streaming(running, 300) as stream:
        running.process.send_signal(number)
        last = stream.rest()[-1]
        assert last["done"] is True
        assert last["eval_count"] == 300
    assert running.process.wait(20) == 0
    assert running.out.rest()[-1] == '{"event": "stopped"}'


def test_a_second_signal_stops_at_once(running: Up) -> None:
    with streaming(running, 50_000) as stream:
        below = descendants(running.pid)
        running.process.send_signal(signal.SIGTERM)
        running.event("stopping")
        stream.read(50)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 130
        assert time.monotonic() - began < 2
    until_sync(lambda: not any(alive(pid) for pid in below), 2)


def test_no_new_request_is_taken_while_it_drains(running: Up) -> None:
    with streaming(running, 20_000) as stream:
        running.process.send_signal(signal.SIGTERM)
        running.event("stopping")
        stream.read(20)
        until_sync(lambda: not _takes_work(running), 5)
        running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 130


def _takes_work(up: Up) -> bool:
    try:
        with up.client() as http:
            return http.post("/api/show", json={"model": "tiny"}).status_code != 503
    except httpx.TransportError:
        return False


def test_a_key_that_is_revoked_during_a_stream(running: Up) -> None:
    with streaming(running, 400) as stream:
        assert cli(running.home, "key", "revoke", "default").returncode == 0
        with running.client() as http:
            until_sync(lambda: http.get("/api/tags").status_code == 401, 5)
        last = stream.rest()[-1]
        assert last["done"] is True
        assert last["eval_count"] == 400
