"""A configured program and its readiness, on a small real server; pulls on a small real child."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from paddock_operator.core.identity import canonical_json, config_hash
from paddock_operator.core.observed import PullObserved
from paddock_operator.executors.local import program as program_module
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.home import Home
from paddock_operator.executors.local.probe import Readiness, readyz
from paddock_operator.executors.local.program import Program
from paddock_operator.executors.local.puller import Puller
from paddock_operator.executors.local.report import JsonReporter

SERVER = """
import hashlib, http.server, json, os, signal, sys, time
path = sys.argv[sys.argv.index("--config") + 1]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        config = open(path, "rb").read()
        if json.loads(config).get("hang"):
            time.sleep(60)
        ready = json.loads(config).get("ready", True)
        body = {"ready": ready, "config": hashlib.sha256(config).hexdigest(), "state": "ready", "restarts": 2}
        data = json.dumps(body).encode()
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
print(json.dumps({"event": "listening", "address": "127.0.0.1:%d" % server.server_port}), flush=True)
server.serve_forever()
"""

PULLER = """
import json, os, sys, time
state = sys.argv[1]
request = json.load(sys.stdin)
def say(**event): print(json.dumps(event), flush=True)
tries = int(open(state).read()) if os.path.exists(state) else 0
open(state, "w").write(str(tries + 1))
say(event="progress", digest="sha256:ab", completed=5, total=10)
mode = request["source"]["mode"]
if mode == "hang": time.sleep(60)
if mode == "crash": os.abort()
if mode == "later" and tries < 1: say(event="error", reason="NotFound", message="not yet", retryable=False); sys.exit(1)
say(event="progress", digest="sha256:ab", completed=10, total=10)
say(event="result", result={"digest": "sha256:ab", "name": "n", "size": 10})
"""


@pytest.fixture
def context(tmp_path: Path) -> Context:
    home = Home.at(tmp_path / "home")
    home.prepare()
    return Context(home, JsonReporter(), runner=(sys.executable, "-c", SERVER))


def start(context: Context, config: dict[str, Any], changes: list[int] | None = None) -> Program:
    seen = changes if changes is not None else []
    return Program(context, "p", context.home.run / "model-p.json", ("serve",), config, lambda: seen.append(1))


async def test_it_is_up_to_date_when_it_says_the_hash_of_its_file(context: Context) -> None:
    program = start(context, {"a": 1})
    path = context.home.run / "model-p.json"
    assert path.read_bytes() == canonical_json({"a": 1})
    assert path.stat().st_mode & 0o777 == 0o600
    await until(lambda: program.up_to_date)
    pid = program.pid
    program.configure({"a": 2})
    assert not program.up_to_date
    await until(lambda: program.up_to_date)
    assert program.readiness.text("config") == config_hash({"a": 2})
    assert (program.pid, program.restarts) == (pid, 2)
    await program.stop(5)
    assert not path.exists(), "a configuration may hold a credential"


async def test_readiness_follows_the_program(context: Context) -> None:
    changes: list[int] = []
    program = start(context, {"ready": False}, changes)
    await until(lambda: program.readiness.status == 503)
    count = len(changes)
    program.configure({"ready": True})
    await until(lambda: program.readiness.ready)
    assert len(changes) > count
    os.kill(program.pid, signal.SIGKILL)
    await until(lambda: program.crashed)
    assert program.last_exit == -signal.SIGKILL
    await until(lambda: program.up_to_date)
    assert program.restarts == 1 + 2
    await program.stop(5)


async def test_a_front_that_hangs_is_replaced(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_module, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr("paddock_operator.executors.local.probe.TIMEOUT_SECONDS", 0.2)
    program = start(context, {"hang": True})
    await until(lambda: program.pid)
    first = program.pid
    await until(lambda: program.pid not in (0, first))
    program.configure({"hang": False})
    await until(lambda: program.up_to_date)
    await program.stop(5)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:x"])
async def test_nobody_there_is_no_error(address: str) -> None:
    assert await readyz(address) == Readiness()


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", 200),
        (b"HTTP/1.1 503 No\r\nA: b\r\n\r\n[]", 503),
        (b"HTTP/1.1 200 OK\r\n\r\nnot json", 0),
        (b"SSH-2.0\r\n\r\n{}", 0),
        (b"HTTP/1.1\r\n\r\n{}", 0),
        (b"", 0),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * 1_000_000, 0),
    ],
)
async def test_whatever_answers(reply: bytes, status: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        found = await readyz(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert found.status == status


class Pulls:
    """A puller with what it told."""

    def __init__(self, context: Context, tmp_path: Path) -> None:
        self.progress: list[tuple[int, int]] = []
        self.tries = tmp_path / "tries"
        context.runner = (sys.executable, "-c", PULLER, str(self.tries))
        self.puller = Puller(
            context, "p-pull", lambda: None, lambda d, done, total, s: self.progress.append((done, total))
        )

    def ask(self, mode: str, key: str = "k") -> None:
        self.puller.ensure({"source": {"mode": mode}, "digest": None}, key)

    @property
    def seen(self) -> PullObserved:
        return self.puller.observed


@pytest.fixture
def pulls(context: Context, tmp_path: Path) -> Pulls:
    return Pulls(context, tmp_path)


async def test_a_pull_reports_progress_and_its_result(pulls: Pulls) -> None:
    pulls.ask("good")
    assert pulls.seen.state == "running"
    await until(lambda: pulls.seen.state == "succeeded")
    assert pulls.seen.result is not None
    assert (pulls.seen.result.digest, pulls.seen.source_hash, pulls.seen.attempts) == ("sha256:ab", "k", 1)
    assert pulls.progress[-1] == (10, 10)
    pulls.ask("good")
    assert pulls.tries.read_text() == "1", "a pull with the same key is kept"


async def test_another_key_is_another_pull(pulls: Pulls) -> None:
    pulls.ask("hang")
    await until(lambda: pulls.seen.total)
    pulls.ask("good", "other")
    await until(lambda: pulls.seen.state == "succeeded")
    assert pulls.seen.source_hash == "other"


async def test_a_failure_stays_visible_until_a_later_try_succeeds(pulls: Pulls) -> None:
    pulls.ask("later")
    await until(lambda: pulls.seen.state == "failed")
    assert (pulls.seen.reason, pulls.seen.message, pulls.seen.retryable) == ("NotFound", "not yet", False)
    pulls.puller.retry_now()
    await until(lambda: pulls.seen.state == "succeeded")
    assert pulls.seen.attempts == 2


async def test_a_crash_is_a_failure_with_a_reason(pulls: Pulls) -> None:
    pulls.ask("crash")
    await until(lambda: pulls.seen.state == "failed")
    assert pulls.seen.reason == "PullerCrashed"
    assert "status -6" in pulls.seen.message
    await pulls.puller.stop()


async def test_no_pull_may_run(pulls: Pulls) -> None:
    pulls.ask("hang")
    await until(lambda: pulls.seen.total)
    pulls.puller.ensure(None, "k")
    assert pulls.seen == PullObserved()
    await pulls.puller.stop()
    assert json.loads(pulls.tries.read_text()) == 1
