"""`paddock pull` from real servers on loopback: registries of Ollama's protocol, OCI, a hub; and what users meet."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Command
from tests.support.docker_registry import docker_registry, free_port
from tests.support.gguf_maker import make_gguf
from tests.support.hub import serving_hub
from tests.support.ollama_registry import PASSWORD, USER, OllamaRegistry, digest_of
from tests.support.ollama_registry_http import serving_registry
from tests.support.waiting import alive, descendants, until_sync

from paddock_operator.executors.local.home import Home

LISTED = "PADDOCK_ALLOW_INSECURE_HOSTS"
CONFIG = b'{"model_format":"gguf"}'


@pytest.fixture
def registry(tmp_path: Path, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaRegistry]:
    with serving_registry(tmp_path / "registry") as state:
        state.add_model("me/x", "1", {"model": gguf, "system": b"Be kind."}, CONFIG)
        # Its blobs are on another host name, which --insecure does not list.
        monkeypatch.setenv(LISTED, state.other_host)
        yield state


def folder_of(path: Path, **members: str) -> str:
    """A folder as a mounted Secret is one."""
    path.mkdir()
    for name, value in members.items():
        (path / name).write_text(value)
    return str(path)


def test_a_pull_says_what_it_does(command: Command, registry: OllamaRegistry, gguf: bytes) -> None:
    name = f"{registry.host}/me/x:1"
    done = command("pull", "--insecure", name)
    assert (done.code, done.out) == (0, ""), done.err
    lines = done.err.splitlines()
    assert (lines[0], lines[-1]) == ("pulling manifest", "success")
    assert lines[-3:-1] == ["verifying sha256 digest", "writing manifest"]
    assert lines.count(f"pulling {digest_of(gguf)[7:19]}") == 1
    assert command.names == [name]
    assert "Be kind." in command("show", name).out


def test_a_second_pull_asks_the_registry_for_the_tag(command: Command, registry: OllamaRegistry, gguf: bytes) -> None:
    name = f"http://{registry.host}/me/x:1"
    assert command("pull", "--insecure", name).code == 0
    registry.add_model("me/x", "1", {"model": gguf, "system": b"Be brief."}, CONFIG)
    assert command("pull", "--insecure", name).code == 0
    assert "Be brief." in command("show", f"{registry.host}/me/x:1").out
    assert len([seen for seen in registry.steps("data") if seen.path.startswith(f"/data/{digest_of(gguf)}")]) == 1


def test_json_is_what_the_runner_printed(command: Command, registry: OllamaRegistry) -> None:
    done = command("pull", "--insecure", f"{registry.host}/me/x:1", "-o", "json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    assert events[-1]["event"] == "result"
    assert {event["event"] for event in events[:-1]} <= {"progress"}
    assert events[-1]["result"]["digest"] == digest_of(registry.manifests["me/x", "1"])
    failed = command("pull", "--insecure", f"{registry.host}/me/x:2", "-o", "json")
    assert json.loads(failed.out.splitlines()[-1])["reason"] == "NotFound"
    assert (failed.code, failed.err.count("\n")) == (1, 1)


def test_json_of_an_interrupted_pull_ends_with_an_event(
    command: Command, registry: OllamaRegistry, large: bytes
) -> None:
    registry.add_model("me/large", "1", {"model": large}, CONFIG)
    words = ("pull", "--insecure", f"{registry.host}/me/large:1", "-o", "json")
    child = started(command.home, *words, PADDOCK_DOWNLOAD_RATE="1M")
    until_sync(lambda: registry.steps("data"), 30)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 130
    assert json.loads(out.splitlines()[-1])["reason"] == "Interrupted"


def test_no_such_model(command: Command, registry: OllamaRegistry) -> None:
    done = command("pull", "--insecure", f"{registry.host}/me/nothing")
    assert done.code == 1
    assert done.err.splitlines() == [
        "pulling manifest",
        f"paddock: {registry.host} does not have /v2/me/nothing/manifests/latest (HTTP 404); "
        "see that the name and its tag are spelled as on the registry's page",
    ]
    assert command.names == []


def test_a_registry_that_is_not_there(command: Command, modelfile: Path) -> None:
    name = f"127.0.0.1:{free_port()}/me/x:1"
    assert command("create", name, "-f", str(modelfile)).code == 0
    done = command("pull", "--insecure", name)
    assert done.code == 75
    assert f"{name.partition('/')[0]} cannot be reached" in done.err
    assert f"; the same command goes on where this one stopped; the cache holds {name} (" in done.err
    assert done.err.rstrip().endswith("ago), which serves as it is")


def test_offline_is_said(command: Command, registry: OllamaRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{registry.host}/me/x:1"
    assert command("pull", "--insecure", name).code == 0
    asked = len(registry.seen)
    monkeypatch.setenv("PADDOCK_OFFLINE", "1")
    other = command("pull", "--insecure", f"{registry.host}/me/y:1")
    assert other.code == 1
    assert other.err.rstrip().endswith("unset PADDOCK_OFFLINE to ask the registry")
    done = command("pull", "--insecure", name)
    assert done.code == 1
    assert "PADDOCK_OFFLINE is set" in done.err
    assert f"the cache holds {name}" in done.err
    assert len(registry.seen) == asked


def test_plain_http_must_be_asked_for(command: Command, registry: OllamaRegistry) -> None:
    done = command("pull", f"http://{registry.host}/me/x:1")
    assert done.code == 1
    assert "for a registry without TLS there is --insecure" in done.err
    assert not registry.seen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "--insecure", "smollm2"], "says which registry is meant: host[:port]/namespace/model:tag"),
        (["pull", "--insecure", "oci:smollm2"], "says which registry is meant: host[:port]/repository:tag"),
        (["pull", "--insecure", "https://h/me/x"], "leave out either that or https://"),
        (["push", "--insecure", "x", "me/x"], "says which registry is meant"),
        (["pull", "x", "--credentials", "/nowhere"], "--credentials: /nowhere is not a folder"),
    ],
)
def test_bad_usage(command: Command, arguments: list[str], words: str) -> None:
    done = command(*arguments)
    assert done.code == 2
    assert words in done.err


@pytest.mark.parametrize("name", ["../x", "a/b/c/d", "x@sha256:12", "oci:docker.io", "-x"])
def test_a_name_that_is_none(command: Command, name: str) -> None:
    done = command("pull", "--", name)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("paddock: source.")


def test_credentials(command: Command, tmp_path: Path, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_registry(tmp_path / "registry", "docker") as registry:
        registry.add_model("me/x", "1", {"model": gguf}, CONFIG)
        monkeypatch.setenv(LISTED, registry.listed)
        words = ("pull", "--insecure", f"{registry.host}/me/x:1")
        wrong = folder_of(tmp_path / "wrong", username=USER, password="a guess")
        for done in (command(*words), command(*words, "--credentials", wrong)):
            assert done.code == 1
            assert "give the registry's credentials with --credentials DIR" in done.err
            assert "a guess" not in done.err
        right = folder_of(tmp_path / "right", username=USER, password=PASSWORD)
        assert command(*words, "--credentials", right).code == 0


def test_an_oci_artifact(command: Command, tmp_path: Path, modelfile: Path) -> None:
    command("create", "tiny", "-f", str(modelfile))
    with docker_registry(tmp_path / "oci") as registry:
        # More parts than a model's name has, so this is an artifact without being called one.
        pushed = command("push", "tiny", f"{registry.host}/some/where/tiny:1", "--insecure")
        assert pushed.code == 0, pushed.err
        assert [pushed.err.splitlines()[0], pushed.err.splitlines()[-1]] == ["retrieving manifest", "success"]
        done = command("pull", "--insecure", f"oci://{registry.host}/some/where/tiny:1")
        assert done.code == 0, done.err
        assert done.err.splitlines()[-1].startswith(f"stored as {registry.host}/_")
        missing = command("pull", "--insecure", f"oci:{registry.host}/some/where/tiny:2")
        assert (missing.code, "HTTP 404" in missing.err) == (1, True)


def test_a_model_of_the_hub(command: Command, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_hub() as hub:
        hub.repo("owner/tiny-GGUF", {"tiny-Q4_K_M.gguf": gguf, "README.md": b"text"})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv(LISTED, ",".join(hub.hosts))
        done = command("pull", "hf.co/owner/tiny-GGUF:Q4_K_M")
        assert done.code == 0, done.err
        assert command.names == ["hf.co/owner/tiny-GGUF:Q4_K_M"]
        assert command("pull", "hf.co/owner/nothing").code == 1


def started(home: Home, *arguments: str, stderr: int = subprocess.PIPE, **env: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "paddock_operator.cli", "--home", str(home.root), *arguments]
    return subprocess.Popen(words, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=stderr)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    return make_gguf(path, embedding=512, feed_forward=1024, layers=4).read_bytes()


def test_ctrl_c_in_the_middle_then_the_rest(command: Command, registry: OllamaRegistry, large: bytes) -> None:
    registry.add_model("me/large", "1", {"model": large}, CONFIG)
    name = f"{registry.host}/me/large:1"
    child = started(command.home, "pull", "--insecure", name, PADDOCK_DOWNLOAD_RATE="3M")
    journal = command.home.models / "blobs" / f"partial-{digest_of(large)[7:]}.journal"
    # Until something is recorded behind the head.
    until_sync(lambda: journal.exists() and journal.stat().st_size > 100, 30)
    below = descendants(child.pid)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    last = errors.decode().splitlines()[-1]
    assert last == f"paddock: interrupted; what arrived is kept: paddock pull {name} goes on from there"
    assert below
    assert not [pid for pid in below if alive(pid)]
    assert command.names == []
    before = len(registry.steps("data"))
    assert command("pull", "--insecure", name).code == 0
    ranges = [seen.headers.get("Range", "bytes=0-") for seen in registry.steps("data")[before:]]
    of_weights = [int(re.findall(r"\d+", item)[0]) for item in ranges if item != "bytes=0-"]
    assert min(of_weights) > 0
    assert command.names == [name]


def test_a_killed_command_leaves_no_child(command: Command, registry: OllamaRegistry, large: bytes) -> None:
    registry.add_model("me/large", "1", {"model": large}, CONFIG)
    name = f"{registry.host}/me/large:1"
    child = started(command.home, "pull", "--insecure", name, PADDOCK_DOWNLOAD_RATE="1M")
    until_sync(lambda: registry.steps("data"), 30)
    below = descendants(child.pid)
    child.kill()
    child.communicate(timeout=30)
    until_sync(lambda: not [pid for pid in below if alive(pid)], 10)


def test_bars_on_a_terminal(command: Command, registry: OllamaRegistry, large: bytes) -> None:
    registry.add_model("me/large", "1", {"model": large}, CONFIG)
    controller, terminal = pty.openpty()
    name = f"{registry.host}/me/large:1"
    child = started(command.home, "pull", "--insecure", name, stderr=terminal, COLUMNS="120", TERM="xterm")
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:
            # The last writer has closed the terminal.
            break
        if not part:
            break
        shown += part
    os.close(controller)
    out, _ = child.communicate(timeout=30)
    text = shown.decode()
    assert (child.returncode, out) == (0, b"")
    assert f"pulling {digest_of(large)[7:19]}" in text
    assert re.search(r"\d+\.\d/\d+\.\d MB", text), text
    assert "success" in text
