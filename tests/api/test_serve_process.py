"""`paddock-runner serve` as a process: an engine or a front that is killed, a drain, what cannot be served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.front import config_json
from tests.support.serving import LONG, Serving, serving, smollm2_cache
from tests.support.waiting import alive, descendants, until_sync

pytestmark = [pytest.mark.model, pytest.mark.e2e]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return smollm2_cache(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, cache: tuple[Path, str]) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("shared"), cache) as at:
        until_sync(lambda: at.ready()["ready"], 30)
        yield at


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
