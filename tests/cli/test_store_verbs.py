"""The verbs of the cache with real children of the runner: push, bundles, Ollama's folder, verify, gc, du, mirror."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Command
from tests.support.docker_registry import PASSWORD, USER, docker_registry
from tests.support.gguf_maker import make_gguf
from tests.support.ollama_registry import OllamaRegistry, digest_of
from tests.support.ollama_registry_http import serving_registry
from tests.support.up import cli
from tests.support.waiting import Lines, descendants, until_sync

from paddock_operator.cli.amounts import parse_duration, parse_size
from paddock_operator.cli.errors import CliError
from paddock_operator.core.resources import Ref
from paddock_operator.executors.local import state
from paddock_operator.executors.local.home import Home, Ownership

LISTED = "PADDOCK_ALLOW_INSECURE_HOSTS"


@pytest.fixture
def tiny(command: Command, modelfile: Path) -> str:
    assert command("create", "tiny", "-f", str(modelfile)).code == 0
    return "tiny:latest"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaRegistry]:
    with serving_registry(tmp_path / "registry") as state_of_it:
        monkeypatch.setenv(LISTED, state_of_it.other_host)
        yield state_of_it


def blobs(home: Home) -> set[str]:
    return {path.name for path in (home.models / "blobs").iterdir()}


def weights(home: Home, gguf: bytes) -> Path:
    return home.models / "blobs" / digest_of(gguf).replace(":", "-")


def damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# push


def test_push_and_its_words(command: Command, tiny: str, registry: OllamaRegistry, gguf: bytes) -> None:
    done = command("push", "tiny", f"{registry.host}/me/tiny:1", "--insecure")
    assert (done.code, done.out) == (0, ""), done.err
    lines = done.err.splitlines()
    assert [lines[0], *lines[-2:]] == ["retrieving manifest", "pushing manifest", "success"]
    assert lines.count(f"pushing {digest_of(gguf)[7:19]}") == 1
    assert ("me/tiny", "1") in registry.manifests
    lines = command("push", "tiny", f"{registry.host}/me/tiny:2", "--insecure", "-o", "json").out.splitlines()
    assert json.loads(lines[-1]) == {"status": "success"}
    # A mirror of the registry is not asked: what it has says nothing about what the registry has.
    assert {seen.step for seen in registry.seen} <= {"head", "upload", "part", "put", "commit", "publish"}


def test_a_push_goes_to_no_mirror(
    command: Command, tiny: str, registry: OllamaRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_registry(tmp_path / "mirror") as mirror:
        monkeypatch.setenv("PADDOCK_MIRRORS", f"{registry.host}={mirror.origin}")
        monkeypatch.setenv(LISTED, f"{registry.other_host},{mirror.listed}")
        assert command("push", "tiny", f"{registry.host}/me/tiny:1", "--insecure").code == 0
        assert registry.seen
        assert not mirror.seen


def test_what_push_refuses(command: Command, tiny: str, registry: OllamaRegistry) -> None:
    missing = command("push", "nothing", f"{registry.host}/me/x:1", "--insecure")
    assert missing.code == 1
    assert missing.err.rstrip().endswith("; paddock list shows the models that can be pushed")
    plain = command("push", "tiny", f"http://{registry.host}/me/x:1")
    assert (plain.code, "there is --insecure" in plain.err) == (1, True)
    bad = command("push", "tiny", "oci:no-host/x")
    assert (bad.code, "begins with no registry host" in bad.err) == (1, True)


def test_push_of_an_artifact_needs_the_password(command: Command, tiny: str, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for folder, password in ((right, PASSWORD), (wrong, "a guess")):
        folder.mkdir()
        (folder / "username").write_text(USER)
        (folder / "password").write_text(password)
    with docker_registry(tmp_path / "oci", "basic") as registry:
        words = ("push", "tiny", f"oci://{registry.host}/ai/tiny:1", "--insecure", "--credentials")
        refused = command(*words, str(wrong))
        assert refused.code == 1
        assert "give the registry's credentials with --credentials DIR" in refused.err
        assert "a guess" not in refused.err
        assert command(*words, str(right)).code == 0
        pulled = command("pull", f"oci:{registry.host}/ai/tiny:1", "--insecure", "--credentials", str(right))
        assert pulled.err.splitlines()[-1] == f"stored as {registry.host}/ai/tiny:1"


# create, show, JSON


def test_create_quantized(command: Command, tmp_path: Path) -> None:
    make_gguf(tmp_path / "wide.gguf", embedding=256, heads=4, kv_heads=4, feed_forward=256)
    (tmp_path / "Modelfile").write_text("FROM ./wide.gguf\nSYSTEM Be terse.\n")
    words = ("create", "wide", "-f", str(tmp_path / "Modelfile"), "-q")
    done = command(*words, "q8_0")
    assert done.code == 0, done.err
    assert "quantizing to Q8_0" in done.err.splitlines()
    shown = command("show", "wide").out
    assert "quantization        Q8_0" in shown
    assert "Be terse." in shown
    assert command.names == ["wide:latest"]
    # What was only needed on the way is gone.
    assert len(blobs(command.home)) == 3
    assert "converted.paddock.dev" not in command("list").out
    unknown = command(*words, "Q9")
    assert (unknown.code, "Q4_K_M" in unknown.err) == (1, True)
    assert "copying" not in unknown.err
    (tmp_path / "Modelfile").write_text("FROM wide\n")
    again = command(*words, "Q4_0")
    assert (again.code, "only F32, F16 and BF16 are converted" in again.err) == (1, True)
    assert "Q8_0" in command("show", "wide").out


def test_show_verbose(command: Command, tiny: str, gguf: bytes) -> None:
    shown = command("show", "tiny", "--verbose").out
    for words in ("Manifest", "kept by             its name", "Files", "    verified", "llama.block_count"):
        assert words in shown
    assert str(weights(command.home, gguf)) in shown
    weights(command.home, gguf).touch()
    assert "not verified since its file changed" in command("show", "tiny", "--verbose").out


def test_json_objects(command: Command, tiny: str) -> None:
    assert json.loads(command("list", "-o", "json").out)["models"][0]["name"] == tiny
    assert json.loads(command("show", "tiny", "-o", "json").out)["details"]["format"] == "gguf"
    assert json.loads(command("cp", "tiny", "b", "-o", "json").out) == {"copied": [tiny, "b:latest"]}
    assert json.loads(command("rm", "b", "-o", "json").out) == {"deleted": ["b:latest"]}
    assert json.loads(command("du", "-o", "json").out)["models"][0]["name"] == tiny
    failed = command("rm", "b", "-o", "json")
    assert (failed.code, json.loads(failed.out)["reason"]) == (1, "NotFound")


def test_a_crash_of_the_runner_is_told(
    command: Command, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paddock_runner.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = command("list")
    assert (done.code, done.err) == (1, "paddock: paddock-runner store list was ended by signal 9\n")
    (tmp_path / "paddock_runner.py").write_text("print('hello')\n")
    assert "no JSON object" in command("list").err
    (tmp_path / "paddock_runner.py").write_text("raise SystemExit('out of order')\n")
    assert command("list").err == "paddock: out of order\n"


# export, import


def test_a_bundle_there_and_back(command: Command, tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "tiny.tar"
    done = command("export", "tiny", "-o", str(file))
    assert (done.code, done.out) == (0, ""), done.err
    assert done.err.splitlines()[-2:] == ["exported tiny:latest", "success"]
    other = tmp_path / "other"
    taken = command("import", str(file), "--home", str(other))
    assert taken.code == 0, taken.err
    assert taken.err.splitlines()[-2:] == ["imported tiny:latest", "success"]
    assert blobs(Home.at(other)) == blobs(command.home)


def test_bundles_through_pipes(command: Command, tiny: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "paddock_operator.cli", "--home"]
    out = subprocess.run([*words, str(command.home.root), "export", "tiny", "-o", "-"], capture_output=True, check=True)
    assert out.stderr.decode().splitlines()[-1] == "success"
    made = subprocess.run(
        [*words, str(tmp_path / "b"), "import", "-", "-o", "json"], input=out.stdout, capture_output=True, check=True
    )
    assert json.loads(made.stdout.splitlines()[-1]) == {"status": "success"}
    assert blobs(Home.at(tmp_path / "b")) == blobs(command.home)


def test_bundles_that_cannot_be(command: Command, tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    missing = command("export", "tiny", "nothing", "-o", str(file))
    assert (missing.code, "paddock list shows" in missing.err) == (1, True)
    assert not file.exists()
    assert command("export", "tiny").code == 2
    file.write_bytes(b"no tar file" * 100)
    bad = command("import", str(file))
    assert (bad.code, bad.err.count("\n")) == (1, 1)
    assert command("import", str(tmp_path / "none.tar")).code == 1
    assert command("import", str(file), "tiny").code == 2


def test_an_interrupted_export_leaves_no_file(command: Command, tmp_path: Path) -> None:
    make_gguf(tmp_path / "large.gguf", embedding=1024, feed_forward=2048, layers=4)
    (tmp_path / "Modelfile").write_text("FROM ./large.gguf\n")
    assert command("create", "large", "-f", str(tmp_path / "Modelfile")).code == 0
    folder = tmp_path / "out"
    folder.mkdir()
    words = [sys.executable, "-m", "paddock_operator.cli", "--home", str(command.home.root)]
    child = subprocess.Popen(
        [*words, "export", "large", "-o", str(folder / "x.tar")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    until_sync(lambda: list(folder.iterdir()), 30)
    # Held still, so that the signal comes in the middle however fast the disk is.
    (runner,) = descendants(child.pid)
    os.kill(runner, signal.SIGSTOP)
    assert not (folder / "x.tar").exists()
    child.send_signal(signal.SIGINT)
    os.kill(runner, signal.SIGCONT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert errors.decode().splitlines()[-1] == f"paddock: interrupted; {folder / 'x.tar'} was not written"
    assert list(folder.iterdir()) == []


@pytest.fixture
def ollama(tmp_path: Path, command: Command, modelfile: Path) -> Path:
    """A folder as Ollama has one, with two models."""
    folder = tmp_path / "ollama-models"
    for name in ("one", "two"):
        assert command("create", name, "-f", str(modelfile), "--models", str(folder)).code == 0
    shutil.rmtree(folder / ".paddock")
    return folder


def test_import_of_ollamas_models(command: Command, ollama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("import", "ollama", str(ollama), "one")
    assert done.code == 0, done.err
    assert done.out.startswith("imported 'one:latest' (")
    assert "1 imported: " in done.err.splitlines()[-1]
    assert "linked" in done.err
    assert command.names == ["one:latest"]
    monkeypatch.setenv("OLLAMA_MODELS", str(ollama))
    missing = command("import", "ollama", "two", "three")
    assert missing.code == 1
    assert "imported 'two:latest'" in missing.out
    assert missing.err.splitlines()[-2].startswith("three:latest: ")
    assert missing.err.splitlines()[-1].startswith("1 imported, 1 failed")
    monkeypatch.setenv("OLLAMA_MODELS", "/nowhere")
    assert "name it: paddock import ollama DIR" in command("import", "ollama").err
    assert command("import", "ollama", "/nowhere").code == 1


# verify, gc, du


def test_verify_and_repair(command: Command, registry: OllamaRegistry, tiny: str, gguf: bytes) -> None:
    sound = command("verify")
    assert sound.code == 0
    assert sound.out.endswith(": all sound\n")
    name = f"{registry.host}/me/tiny:1"
    command("cp", "tiny", name)
    assert command("push", name, "--insecure").code == 0
    command("rm", "tiny")
    file = weights(command.home, gguf)
    file.write_bytes(damaged(gguf))
    found = command("verify", name)
    assert found.code == 1
    assert f"damaged {digest_of(gguf)[7:19]} of {name}: " in found.out
    assert found.out.splitlines()[-1].endswith("1 damaged, 0 of them repaired")
    assert "paddock verify --repair fetches again" in found.err
    assert not file.exists()
    hopeless = command("verify", "--repair", "-o", "json")
    assert hopeless.code == 1
    assert command("verify", "nothing").code == 1


def test_repair_fetches_again(
    command: Command, registry: OllamaRegistry, tiny: str, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{registry.host}/me/tiny:1"
    command("cp", "tiny", name)
    assert command("push", name, "--insecure").code == 0
    weights(command.home, gguf).write_bytes(damaged(gguf))
    monkeypatch.setenv(LISTED, registry.listed)
    done = command("verify", "--repair", name)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].endswith("1 damaged, 1 of them repaired")
    assert weights(command.home, gguf).read_bytes() == gguf


def declare(home: Home, name: str, digest: str, where: str = "status") -> None:
    """The state of a Model that knows a digest, in its spec or its status."""
    spec: dict[str, object] = {"source": {"ollama": {"name": f"{name}:1"}}}
    if where == "spec":
        spec["source"] = {"ollama": {"name": f"{name}:1", "digest": digest}}
    document = {
        "apiVersion": "paddock.dev/v1alpha1", "kind": "Model", "spec": spec,
        "metadata": {"name": name, "namespace": "default", "generation": 1},
    }  # fmt: skip
    state.write(home, document, {"resolved": {"digest": digest}} if where == "status" else {})


@pytest.mark.parametrize("where", ["status", "spec"])
def test_gc_spares_what_models_of_the_home_need(command: Command, tiny: str, gguf: bytes, where: str) -> None:
    digest = "sha256:" + json.loads(command("show", "tiny", "--verbose", "-o", "json").out)["digest"]
    # As a Model by URL or from the hub leaves it: no name but the pin.
    pin = command.home.models / "manifests" / "pins.paddock.dev" / "sha256" / digest[7:] / "latest"
    named = command.home.models / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    pin.parent.mkdir(parents=True)
    named.rename(pin)
    declare(command.home, "tiny", digest, where)
    kept = command("gc", "--min-age", "0")
    assert (kept.code, kept.out) == (0, "removed 0 hidden names and 0 files, 0 B\n")
    assert weights(command.home, gguf).exists()
    state.remove(command.home, Ref("Model", "default", "tiny"))
    told = command("gc", "--min-age", "0", "--dry-run")
    assert f"would remove {digest_of(gguf)[7:19]} (" in told.out
    assert weights(command.home, gguf).exists()
    gone = command("gc", "--min-age", "0")
    assert gone.out.startswith("removed 1 hidden name and 3 files, ")
    assert blobs(command.home) == set()


def test_gc_beside_a_running_up_spares_what_is_young(command: Command, tiny: str) -> None:
    owned = Ownership.take(command.home)
    refused = command("gc", "--min-age", "30m")
    allowed = command("gc")
    owned.release()
    assert (refused.code, "may be pulling" in refused.err) == (2, True)
    assert allowed.code == 0
    assert command.names == [tiny]


def test_gc_by_quota(command: Command, tiny: str) -> None:
    done = command("gc", "--quota", "1KB")
    assert done.code == 0
    assert "more than the quota" in done.out
    told = json.loads(command("gc", "--quota", "1GiB", "-o", "json").out)
    assert (told["event"], told["over"]) == ("collected", 0)
    assert command("gc", "--quota", "much").code == 2
    assert command("gc", "--min-age", "soon").code == 2
    assert command.names == [tiny]


def test_du(command: Command, tiny: str, gguf: bytes) -> None:
    command("cp", "tiny", "twin")
    (command.home.models / "blobs" / f"sha256-{'0' * 64}").write_bytes(b"of nobody")
    lines = command("du").out.splitlines()
    assert lines[0].split() == ["NAME", "ID", "SIZE", "OWN", "SHARED"]
    assert [line.split()[0] for line in lines[1:3]] == ["tiny:latest", "twin:latest"]
    assert lines[1].split()[-4:-2] == ["0", "B"]
    assert "     9 B  of nothing (paddock gc)" in lines


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("5000000", 5_000_000),
        ("20GB", 20 * 10**9),
        ("1.5g", 1_500_000_000),
        ("8GiB", 8 << 30),
        ("2 kib", 2048),
    ],
)
def test_sizes_in_options(text: str, count: int) -> None:
    assert parse_size("--quota", text) == count


@pytest.mark.parametrize("text", ["", "-1", "GB", "1PB", "1e9", "9999999TB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(CliError, match="--quota: "):
        parse_size("--quota", text)


def test_durations_in_options() -> None:
    assert [parse_duration("--min-age", text) for text in ("0", "90s", "30m", "1h", "2d")] == [
        0,
        90,
        1800,
        3600,
        172800,
    ]
    for text in ("", "-1", "1w", "9999999999", "99999999d"):
        with pytest.raises(CliError, match="--min-age: "):
            parse_duration("--min-age", text)


# serve-blobs


def test_the_mirror_serves_and_ends_cleanly(command: Command, tiny: str) -> None:
    words = [sys.executable, "-m", "paddock_operator.cli", "--home", str(command.home.root)]
    child = subprocess.Popen(
        [*words, "serve-blobs", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    lines, logs = Lines(child.stdout), Lines(child.stderr)  # type: ignore[arg-type]
    line = lines.find(lambda text: text.startswith("serving "))
    url = next(word for word in line.split() if word.startswith("http://")).rstrip(",")
    with urllib.request.urlopen(f"{url}/v2/library/tiny/manifests/latest", timeout=10) as answer:
        assert answer.status == 200
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0
    assert lines.rest() == []
    logs.rest()
    child.stdout.close()
    child.stderr.close()  # type: ignore[union-attr]


def test_mirrors_that_cannot_be(command: Command, tiny: str, tmp_path: Path) -> None:
    assert command("serve-blobs", "--home", str(tmp_path / "none")).code == 2
    done = cli(command.home.root, "serve-blobs", "--listen", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = cli(command.home.root, "serve-blobs", "--listen", address)
    assert (done.returncode, done.stdout) == (4, "")
    assert "the address is in use" in done.stderr
    assert done.stderr.count("\n") == 1
