"""`paddock-runner serve` before its model is there, while it is damaged, and what it says of itself on stdout."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gguf_maker import make_gguf
from tests.support.serving import Serving, serving
from tests.support.tiny_cache import TinyModel, tiny_model
from tests.support.waiting import until, until_sync

from paddock_runner.api.status import StateLines, Status
from paddock_runner.core.digest import Digest
from paddock_runner.store import search
from paddock_runner.store.search import ABSENT, Search

pytestmark = [pytest.mark.e2e]

SHORT = {"model": "smollm2", "prompt": "x", "raw": True, "stream": False, "options": {"num_predict": 2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return tiny_model(make_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf").read_bytes())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def at(tmp_path: Path, models: Path, model: TinyModel) -> Iterator[Serving]:
    with serving(tmp_path, (models, model.digest)) as at:
        yield at


def test_it_waits_with_an_open_port_and_serves_once_the_model_is_there(
    at: Serving, models: Path, model: TinyModel
) -> None:
    assert at.client.get("/healthz").status_code == 200
    config = at.write()
    assert at.ready() == {
        "ready": False, "reason": ABSENT, "state": "starting", "config": config, "digest": model.digest, "restarts": 0,
        "oomKills": 0, "memory": {"weights": 0, "kv": 0, "resident": 0},
    }  # fmt: skip
    assert at.metric('paddock_runner_engine_state{model="smollm2",state="starting"}') == 1
    model.pull_into(models)
    until_sync(lambda: at.ready()["ready"], 30)
    assert at.client.post("/api/generate", json=SHORT).json()["done"] is True
    assert at.ready()["config"] == config
    states = at.states(until=lambda event: event["ready"])
    assert [event["state"] for event in states] == ["starting", "starting", "loading", "ready"]
    assert [event["reason"] for event in states[:1]] == [ABSENT]
    assert {**at.ready(), "event": "state", "reason": ""} == {**states[-1], "memory": at.ready()["memory"]}


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/", lambda body: body["error"]),
        ("GET", "/api/tags", lambda body: body["error"]),
        ("POST", "/api/chat", lambda body: body["error"]),
        ("POST", "/v1/chat/completions", lambda body: (body["error"]["code"], body["error"]["message"])[1]),
        ("GET", "/v1/models", lambda body: body["error"]["message"]),
        ("POST", "/v1/messages", lambda body: {"overloaded_error": body["error"]["message"]}[body["error"]["type"]]),
        ("DELETE", "/api/delete", lambda body: body["error"]),
    ],
)
def test_everything_else_is_a_503_of_its_dialect(waiting: Serving, method: str, path: str, message: Any) -> None:
    reply = waiting.client.request(method, path, json={})
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.headers["X-Request-Id"]
    assert ABSENT in message(reply.json())


def test_the_credential_is_asked_for_all_the_same(waiting: Serving) -> None:
    assert waiting.client.get("/api/tags", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert waiting.client.get("/readyz", headers={"authorization": ""}).status_code == 503


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, model: TinyModel) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("waiting")
    (folder / "models").mkdir()
    with serving(folder, (folder / "models", model.digest)) as at:
        yield at


def test_damaged_bytes_are_named_and_their_repair_is_noticed(tmp_path: Path, models: Path, model: TinyModel) -> None:
    store = model.pull_into(models)
    blob = store.blob_path(model.blob)
    blob.write_bytes(model.gguf[:1000])
    with serving(tmp_path, (models, model.digest)) as at:
        broken = at.states(until=lambda event: event["reason"].startswith("DigestMismatch: "))[-1]
        assert (broken["ready"], broken["state"]) == (False, "starting")
        assert at.ready()["reason"] == broken["reason"]
        assert blob.name in broken["reason"]
        blob.unlink()
        at.states(until=lambda event: event["reason"].startswith("NotFound: "))
        model.pull_into(models)
        at.states(until=lambda event: event["ready"])
        assert at.client.post("/api/generate", json=SHORT).status_code == 200


@pytest.mark.parametrize(("bytes_", "reason"), [(b"<html>no model</html>", "NotGGUF"), (None, "TruncatedGGUF")])
def test_what_can_never_be_served_is_told_and_the_process_stays(
    tmp_path: Path, models: Path, model: TinyModel, bytes_: bytes | None, reason: str
) -> None:
    wrong = tiny_model(bytes_ or model.gguf[:-100])
    wrong.pull_into(models)
    with serving(tmp_path, (models, wrong.digest)) as at:
        at.states(until=lambda event: event["reason"].startswith(f"{reason}: "))
        assert at.process.poll() is None
        assert at.client.get("/healthz").status_code == 200


def test_sigterm_while_waiting_ends_at_once(at: Serving) -> None:
    at.states(until=lambda event: event["reason"] == ABSENT)
    at.process.send_signal(signal.SIGTERM)
    assert at.process.wait(5) == 0
    assert at.states(until=lambda event: event["state"] == "draining")[-1]["ready"] is False


def test_a_new_configuration_and_a_lost_engine_are_lines(tmp_path: Path, models: Path, model: TinyModel) -> None:
    model.pull_into(models)
    with serving(tmp_path, (models, model.digest)) as at:
        at.states(until=lambda event: event["ready"])
        changed = at.write(system="Be brief.")
        assert at.states()[-1]["config"] == changed
        os.kill(at.engine_pid(), signal.SIGKILL)
        lines = at.states(until=lambda event: event["ready"])
        assert "crashed" in {event["state"] for event in lines}
        assert (lines[-1]["restarts"], lines[-1]["oomKills"]) == (1, 0), "killed, but not for memory"
        assert not any("OOMKilled" in event["reason"] for event in lines)


def test_nothing_is_written_but_in_tmp(model: TinyModel) -> None:
    """As in a pod: another user who owns nothing, no home, a cache that belongs to somebody else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        models, temporary = folder / "models", folder / "tmp"
        models.mkdir()
        temporary.mkdir()
        temporary.chmod(0o777)
        model.pull_into(models)
        shutil.rmtree(models / ".paddock" / "verified")
        before = _tree(models)
        environment = {
            "PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"
        }  # fmt: skip
        with serving(folder, (models, model.digest), before=_as_nobody(), environment=environment) as at:
            assert os.geteuid() != 0 or Path(f"/proc/{at.process.pid}").stat().st_uid == 65532
            at.states(until=lambda event: event["ready"])
            chat = {"model": "smollm2", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
            assert at.client.post("/v1/chat/completions", json=chat).status_code == 200
            assert at.client.post("/api/show", json={"model": "smollm2"}).status_code == 200
        assert os.geteuid() != 0 or _tree(models) == before


def _as_nobody() -> list[str]:
    """Words that run a command as user 65532, who may read everything (the interpreter too) and write nothing."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    only = "-all,+dac_read_search"
    capabilities = ["--bounding-set", only, "--inh-caps", only, "--ambient-caps", only]
    return [setpriv, "--reuid", "65532", "--regid", "65532", "--clear-groups", *capabilities]


def _tree(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


async def test_damaged_bytes_are_hashed_once_until_they_change(
    models: Path, model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(search, "MOST_SECONDS", 0.01)
    looks = loads = 0
    look, load = Search._look, search.load_model

    def looking(self: Search) -> search.Found | None:
        nonlocal looks
        looks += 1
        return look(self)

    def loading(*arguments: Any, **named: Any) -> Any:
        nonlocal loads
        loads += 1
        return load(*arguments, **named)

    monkeypatch.setattr(Search, "_look", looking)
    monkeypatch.setattr(search, "load_model", loading)
    store = model.pull_into(models)
    store.blob_path(model.blob).write_bytes(b"GGUF and nothing else")
    problems: list[str] = []
    searching = asyncio.create_task(Search(models, Digest.parse(model.digest)).until_found(problems.append))
    await until(lambda: looks > 20)
    assert (loads, len(problems)) == (1, 1)
    store.blob_path(model.blob).write_bytes(model.gguf)
    _, _, files = await asyncio.wait_for(searching, 10)
    assert (str(files.digest), loads) == (model.digest, 2)


async def test_a_search_that_is_ended_does_not_hash_on(models: Path, model: TinyModel) -> None:
    store = model.pull_into(models)
    shutil.rmtree(models / ".paddock" / "verified")
    ended = Search(models, Digest.parse(model.digest))
    ended._stopped = True
    assert ended._look() is None
    assert not store.has_verified(model.blob)


def test_lines_tell_changes_and_not_memory() -> None:
    said: list[dict[str, Any]] = []
    memory = {"weights": 1}
    now = [Status(True, "", "ready", "c", "d", 0, 0, memory)]
    lines = StateLines(lambda: now[0], lambda line: said.append(json.loads(line)))
    lines.tell()
    memory["weights"] = 2
    lines.tell()
    assert len(said) == 1
    now[0] = Status(False, "gone", "crashed", "c", "d", 1, 1, memory)
    lines.tell()
    lines.tell()
    assert said[1:] == [
        {
            "event": "state", "ready": False, "reason": "gone", "state": "crashed", "config": "c", "digest": "d",
            "restarts": 1, "oomKills": 1, "memory": {"weights": 2},
        }
    ]  # fmt: skip
