"""`paddock-runner pull` as a Job runs it: request and credentials from the pod, verdict, signals, neighbours."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.fault_server import FaultServer, serving
from tests.support.gguf_maker import make_gguf
from tests.support.ollama_registry import OllamaRegistry
from tests.support.ollama_registry_http import serving_registry
from tests.support.waiting import Lines, until_sync
from tests.support.web import Reply, serving_web

from paddock_runner.commands import events
from paddock_runner.commands.events import PROGRESS_SECONDS, Progress
from paddock_runner.commands.pull import Request, pull
from paddock_runner.core.digest import Digest
from paddock_runner.core.names import PIN_HOST
from paddock_runner.sources.download.blob import DEFAULTS
from paddock_runner.sources.network import Network
from paddock_runner.sources.select import source_for
from paddock_runner.store.collect import collect
from paddock_runner.store.errors import ReadOnlyError, from_os_error
from paddock_runner.store.manifests import pin_name
from paddock_runner.store.store import Store

TINY = {"source": {"ollama": {"name": "tiny:1b"}}, "digest": None}


class Pull:
    """One process. `verdict` is its termination message."""

    def __init__(self, models: Path, request: object, *arguments: str | Path, **environment: str) -> None:
        self.message = models.parent / f"termination-{os.urandom(4).hex()}"
        self.message.touch()
        command = [sys.executable, "-m", "paddock_runner", "pull", "--models", models, "--request", "env:PULL_REQUEST"]
        self.process = subprocess.Popen(
            [*command, "--termination-message", self.message, *arguments],
            env={**os.environ, "PULL_REQUEST": json.dumps(request), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, list[dict[str, Any]], str]:
        """Exit code, events, log."""
        out, errors = self.process.communicate(timeout=60)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], errors

    @property
    def verdict(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.message.read_text())
        return found


@contextmanager
def pulling(models: Path, request: object, *arguments: str | Path, **environment: str) -> Iterator[Pull]:
    pull = Pull(models, request, *arguments, **environment)
    try:
        yield pull
    finally:
        pull.process.kill()
        pull.process.wait()
        for pipe in (pull.process.stdout, pull.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def seeded(models: Path, gguf_file: Path, tmp_path: Path) -> Path:
    shutil.copy(gguf_file, tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf\nSYSTEM Be kind.\n")
    command = [sys.executable, "-m", "paddock_runner", "store", "--models", models, "create", "tiny:1b"]
    subprocess.run([*command, "-f", tmp_path / "Modelfile"], check=True, capture_output=True, timeout=60)
    return models


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = make_gguf(tmp_path_factory.mktemp("big") / "big.gguf", layers=4, embedding=256)
    data = path.read_bytes()
    assert len(data) > 3 << 20
    return data


@pytest.fixture
def server(big: bytes) -> Iterator[FaultServer]:
    with serving(big) as state:
        yield state


def http(server: FaultServer) -> dict[str, Any]:
    return {"source": {"http": {"url": server.url, "sha256": Digest.of(server.data).hex}}, "digest": None}


@pytest.fixture
def registry(tmp_path: Path, big: bytes) -> Iterator[OllamaRegistry]:
    with serving_registry(tmp_path / "registry") as state:
        state.add_model("me/x", "1", {"model": big, "system": b"One."})
        yield state


def ollama(registry: OllamaRegistry, name: str = "me/x:1", **changes: Any) -> dict[str, Any]:
    return {"source": {"ollama": {"name": registry.name(name)}}, "digest": None, **changes}


def listed(registry: OllamaRegistry) -> dict[str, str]:
    return {"PADDOCK_ALLOW_INSECURE_HOSTS": registry.listed}


def test_a_pull_that_cannot_pin_what_it_wrote_is_no_success(
    models: Path, registry: OllamaRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that turns read-only before the last step, as a file system does that met an error."""

    def refuse(*_: object) -> None:
        raise from_os_error(OSError(errno.EROFS, "Read-only file system"), "writing", models)

    store, source = Store(models), source_for(ollama(registry)["source"])
    network = Network.from_environment(listed(registry))
    with monkeypatch.context() as patched:
        patched.setattr(Store, "pin", refuse)
        with pytest.raises(ReadOnlyError, match="mount it writable"):
            pull(store, Request(source), network, lambda *_: None)
        assert pull(store, Request(source), network, lambda *_: None)["digest"], "it was there: nothing was written"
    found = pull(store, Request(source), network, lambda *_: None)
    assert store.manifest(pin_name(Digest.parse(found["digest"]))).is_pin


def result(models: Path, request: object, **environment: str) -> dict[str, Any]:
    with pulling(models, request, **environment) as pull:
        code, lines, errors = pull.end()
    assert (code, lines[-1]["event"]) == (0, "result"), errors
    assert len(json.dumps(lines[-1], ensure_ascii=False).encode()) <= 4096
    found: dict[str, Any] = lines[-1]["result"]
    return found


def test_a_model_of_a_registry(models: Path, registry: OllamaRegistry) -> None:
    data = registry.manifests["me/x", "1"]
    found = result(models, ollama(registry), **listed(registry))
    assert found["digest"] == found["revision"] == found["validator"] == str(Digest.of(data))
    assert found["name"] == f"{registry.host}/me/x:1"
    assert [item["role"] for item in found["files"]] == ["model", "system"]
    assert Store(models).manifest_by_digest(Digest.of(data)).data == data


def test_a_name_in_the_cache_counts_until_fresh_is_asked_for(models: Path, registry: OllamaRegistry) -> None:
    first = result(models, ollama(registry), **listed(registry))
    moved = registry.add_model(
        "me/x", "1", {"model": registry.blob(first["files"][0]["digest"]) or b"", "system": b"2"}
    )
    asked = len(registry.seen)
    held = result(models, ollama(registry), **listed(registry))
    assert (held["digest"], "revision" in held, len(registry.seen)) == (first["digest"], False, asked)
    fresh = result(models, ollama(registry, fresh=True), **listed(registry))
    assert fresh["digest"] == fresh["validator"] == str(Digest.of(moved))
    assert {seen.step for seen in registry.seen[asked:]} == {"manifest", "blob", "data"}


def test_without_a_name_a_collector_takes_all_back(models: Path, registry: OllamaRegistry) -> None:
    with pulling(models, ollama(registry), "--pin-only", **listed(registry)) as pull:
        code, lines, errors = pull.end()
    assert code == 0, errors
    digest, store = Digest.parse(lines[-1]["result"]["digest"]), Store(models)
    assert lines[-1]["result"]["name"].endswith("/me/x:1")
    assert [item.name.host for item in map(store.manifest_by_digest, [digest])] == [PIN_HOST]
    assert store.list() == ()
    assert collect(store, {digest}, 0).names == ()
    assert collect(store, set(), 0).size > 3 << 20
    assert not list((models / "blobs").glob("sha256-*"))


def test_a_validator_that_holds_costs_one_question(models: Path, registry: OllamaRegistry) -> None:
    first = result(models, ollama(registry), **listed(registry))
    asked = len(registry.seen)
    again = ollama(registry, fresh=True, validator=first["validator"])
    assert result(models, again, **listed(registry)) == first
    assert [seen.step for seen in registry.seen[asked:]] == ["manifest"]
    # What was damaged meanwhile is fetched all the same.
    blob = Store(models).blob_path(Digest.parse(first["files"][0]["digest"]))
    blob.unlink()
    assert result(models, again, **listed(registry)) == first
    assert blob.exists()


@pytest.mark.parametrize("change", [{"fresh": "yes"}, {"fresh": None}, {"validator": 5}, {"validator": None}])
def test_odd_requests(models: Path, registry: OllamaRegistry, change: dict[str, Any]) -> None:
    with pulling(models, ollama(registry, **change), **listed(registry)) as pull:
        pull.end()
    assert pull.verdict["reason"] == "SourceUnsupported"
    assert registry.seen == []


def test_offline_the_cache_is_enough_or_the_setting_is_named(models: Path, registry: OllamaRegistry) -> None:
    first = result(models, ollama(registry), **listed(registry))
    asked = len(registry.seen)
    assert result(models, ollama(registry), PADDOCK_OFFLINE="1")["digest"] == first["digest"]
    for request in (ollama(registry, "me/other"), ollama(registry, fresh=True)):
        with pulling(models, request, PADDOCK_OFFLINE="1", **listed(registry)) as pull:
            pull.end()
        assert (pull.verdict["reason"], pull.verdict["retryable"]) == ("Offline", False)
        assert "PADDOCK_OFFLINE" in pull.verdict["message"]
    assert len(registry.seen) == asked


def test_a_setting_that_is_wrong_is_a_verdict(models: Path, registry: OllamaRegistry) -> None:
    with pulling(models, ollama(registry), PADDOCK_MIRRORS="nonsense") as pull:
        code, _, _ = pull.end()
    assert (code, pull.verdict["reason"]) == (0, "SourceUnsupported")
    assert "PADDOCK_MIRRORS" in pull.verdict["message"]


def test_the_verdict_of_a_result_is_the_last_line(seeded: Path) -> None:
    with pulling(seeded, TINY) as pull:
        code, lines, errors = pull.end()
    assert (code, lines[-1]["event"]) == (0, "result"), errors
    assert pull.verdict == lines[-1]
    assert len(pull.message.read_bytes()) <= 4096


def test_a_final_error_is_a_verdict_and_exits_0(models: Path, registry: OllamaRegistry) -> None:
    with pulling(models, ollama(registry, "me/nope"), **listed(registry)) as pull:
        code, lines, _ = pull.end()
    assert (code, len(lines)) == (0, 1)
    assert (pull.verdict["event"], pull.verdict["reason"], pull.verdict["retryable"]) == ("error", "NotFound", False)
    assert pull.verdict == lines[0]


def test_an_error_that_may_pass_exits_75(models: Path) -> None:
    with serving(b"") as gone:
        host, request = gone.host, http(gone)
    with pulling(models, request, PADDOCK_ALLOW_INSECURE_HOSTS=host) as pull:
        code, lines, _ = pull.end()
    assert (code, pull.verdict["reason"], pull.verdict["retryable"]) == (75, "NetworkError", True)
    assert pull.verdict == lines[-1]


@pytest.mark.parametrize("letter", ["x", "ü", '"', "\n", "😀"])
def test_a_long_message_is_cut_and_stays_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], letter: str) -> None:
    event = {"event": "error", "reason": "NotFound", "message": letter * 5000, "retryable": False}
    events.conclude(event, tmp_path / "message")
    written = (tmp_path / "message").read_bytes()
    found = json.loads(written)
    assert 2000 < len(written) <= 4096
    assert found["message"].startswith(letter * 400)
    assert found["message"].endswith("…")
    assert {**found, "message": ""} == {**event, "message": ""}
    assert capsys.readouterr().out == written.decode() + "\n"


def test_a_message_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events.conclude({"event": "x"}, tmp_path / "no" / "such")
    assert "cannot be written" in caplog.text


def test_the_request_must_be_in_the_environment(models: Path) -> None:
    command = [sys.executable, "-m", "paddock_runner", "pull", "--models", models, "--request", "env:NOT_SET"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    event = json.loads(done.stdout)
    assert (done.returncode, event["reason"]) == (1, "SourceUnsupported")
    assert "NOT_SET is not set" in event["message"]


def told_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_progress_comes_at_most_once_per_second(capsys: pytest.CaptureFixture[str]) -> None:
    clock, digest = [100.0], Digest.of(b"x")
    progress = Progress(lambda: clock[0])
    for step in range(101):
        clock[0] = 100.0 + step / 20
        progress(digest, step, 100)
    told = told_of(capsys)
    assert PROGRESS_SECONDS == 1.0
    assert [item["completed"] for item in told] == [0, 20, 40, 60, 80, 100]
    assert not {"bytesPerSecond", "remainingSeconds"} & told[0].keys()
    assert [(item["bytesPerSecond"], item["remainingSeconds"]) for item in told[1:]] == [
        (20, 4), (20, 3), (20, 2), (20, 1), (20, 0),
    ]  # fmt: skip


def test_speed_is_that_of_late_and_starts_anew_with_the_hash(capsys: pytest.CaptureFixture[str]) -> None:
    clock, digest = [0.0], Digest.of(b"x")
    progress = Progress(lambda: clock[0])
    for completed in [*range(0, 20_000, 1000), *[20_000] * 12, 5, 10]:
        progress(digest, completed, 20_000)
        clock[0] += 1
    told = told_of(capsys)
    assert told[15]["bytesPerSecond"] == 1000
    assert "bytesPerSecond" not in told[31], "nothing came for a while"
    assert "remainingSeconds" not in told[32], "it begins again"
    assert told[33]["bytesPerSecond"] == 5


def test_sigterm_ends_a_pull_at_once_and_the_next_goes_on(models: Path, server: FaultServer) -> None:
    server.pause_at = 2 << 20
    with pulling(models, http(server), PADDOCK_ALLOW_INSECURE_HOSTS=server.host) as pull:
        assert server.paused.wait(30)
        partial = models / "blobs" / f"partial-{Digest.of(server.data).hex}"
        until_sync(lambda: partial.stat().st_size >= 1 << 20)
        pull.process.send_signal(signal.SIGTERM)
        assert pull.process.wait(5) == 75
        assert (pull.verdict["reason"], pull.verdict["retryable"]) == ("Interrupted", True)
    # A piece that was written but not yet recorded when the end came is fetched again: at most a chunk.
    held = partial.stat().st_size
    server.go.set()
    with pulling(models, http(server), PADDOCK_ALLOW_INSECURE_HOSTS=server.host) as pull:
        code, lines, errors = pull.end()
    assert (code, lines[-1]["event"]) == (0, "result"), errors
    first, second = server.ranges
    asked = re.fullmatch(r"bytes=(\d+)-", second or "")
    assert first is None
    assert asked is not None
    assert 0 <= held - int(asked[1]) <= DEFAULTS.chunk_bytes
    assert not partial.exists()


def test_two_pullers_on_one_cache_fetch_once(models: Path, server: FaultServer) -> None:
    server.pause_at = 1 << 20
    allowed = {"PADDOCK_ALLOW_INSECURE_HOSTS": server.host}
    with pulling(models, http(server), **allowed) as first:
        assert server.paused.wait(30)
        with pulling(models, http(server), **allowed) as second:
            # What the other one has got is shown while waiting.
            assert second.process.stdout is not None
            told = json.loads(Lines(second.process.stdout).find(lambda line: "progress" in line))
            assert told["digest"] == str(Digest.of(server.data))
            server.go.set()
            assert [first.process.wait(30), second.process.wait(30)] == [0, 0]
    assert server.ranges == [None]
    assert first.verdict == second.verdict
    assert first.verdict["event"] == "result"


@pytest.mark.parametrize("damage", ["changed", "short", "gone"])
def test_a_source_that_can_fetch_repairs_the_cache(models: Path, server: FaultServer, damage: str) -> None:
    allowed = {"PADDOCK_ALLOW_INSECURE_HOSTS": server.host}
    with pulling(models, http(server), **allowed) as pull:
        digest = pull.end()[1][-1]["result"]["digest"]
    blob = Store(models).blob_path(Digest.of(server.data))
    whole = blob.read_bytes()
    blob.unlink()
    if damage != "gone":
        blob.write_bytes(whole[:1000] if damage == "short" else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pulling(models, {**http(server), "digest": digest}, **allowed) as pull:
        code, lines, errors = pull.end()
    assert (code, lines[-1]["event"]) == (0, "result"), errors
    assert blob.read_bytes() == whole
    assert server.ranges == [None, None]


def test_another_user_of_the_group_can_read_what_a_puller_wrote(tmp_path: Path, server: FaultServer) -> None:
    models = tmp_path / "models"
    models.mkdir()
    models.chmod(0o2775)
    old = os.umask(0o077)
    try:
        with pulling(models, http(server), PADDOCK_ALLOW_INSECURE_HOSTS=server.host) as pull:
            assert pull.end()[0] == 0
    finally:
        os.umask(old)
    modes = {path: path.stat().st_mode for path in models.rglob("*") if "locks" not in path.parts}
    assert len(modes) > 10
    for path, mode in modes.items():
        needed = 0o2050 if stat.S_ISDIR(mode) else 0o040
        assert mode & needed == needed, f"{path}: {oct(mode)}"
    assert stat.S_IMODE(models.stat().st_mode) == 0o2775, "a folder that was there keeps its mode"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "secret"
    folder.mkdir()
    return folder


def test_a_bad_secret_is_told_once_the_registry_is_needed(models: Path, secret: Path) -> None:
    (secret / "username").write_text("me-myself")
    nope = {"source": {"ollama": {"name": "nope"}}, "digest": None}
    with pulling(models, nope, "--credentials", secret, PADDOCK_OFFLINE="1") as pull:
        code, _, errors = pull.end()
    assert (code, pull.verdict["reason"], pull.verdict["retryable"]) == (75, "Unauthorized", True)
    assert "username and password" in pull.verdict["message"]
    assert "me-myself" not in pull.message.read_text() + errors


def test_a_refused_secret_may_be_corrected_while_the_job_runs(models: Path, secret: Path) -> None:
    """The kubelet starts the puller again, in the same pod, with what the Secret holds by then."""
    (secret / "username").write_text("me")
    (secret / "password").write_text("wrong-word")
    with serving_web() as web:
        web.on("/v2/a/b/manifests/1", Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
        request = {"source": {"oci": {"reference": f"http://{web.host}/a/b:1"}}, "digest": None}
        with pulling(models, request, "--credentials", secret, PADDOCK_ALLOW_INSECURE_HOSTS=web.host) as pull:
            code, _, errors = pull.end()
        assert (code, pull.verdict["reason"], pull.verdict["retryable"]) == (75, "Unauthorized", True)
        assert "HTTP 401" in pull.verdict["message"]
        assert "correct the Secret" in pull.verdict["message"]
        assert "wrong-word" not in pull.message.read_text() + errors
        with pulling(models, request, PADDOCK_ALLOW_INSECURE_HOSTS=web.host) as pull:
            code, _, _ = pull.end()
        assert (code, pull.verdict["reason"], pull.verdict["retryable"]) == (0, "Unauthorized", False)


def test_what_the_cache_holds_needs_no_secret(seeded: Path, secret: Path) -> None:
    with pulling(seeded, TINY, "--credentials", secret) as pull:
        assert pull.end()[0] == 0


def test_credentials_never_go_to_a_url(models: Path, secret: Path, server: FaultServer) -> None:
    (secret / "token").write_text("hush")
    allowed = {"PADDOCK_ALLOW_INSECURE_HOSTS": server.host}
    with pulling(models, http(server), "--credentials", secret, **allowed) as pull:
        code, lines, errors = pull.end()
    assert code == 0
    assert all("Authorization" not in head for head in server.heads)
    assert "hush" not in json.dumps(lines) + errors
