"""`paddock-runner pull` and `paddock-runner store` as programs: arguments in, JSON lines and exit codes out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.store.conftest import remount_read_only

from paddock_runner.core.digest import Digest
from paddock_runner.core.names import ModelName
from paddock_runner.store.store import Store

Lines = list[dict[str, Any]]


def run(
    *arguments: str | Path, stdin: object = None, environment: Mapping[str, str] | None = None
) -> tuple[int, Lines, str]:
    command = [sys.executable, "-m", "paddock_runner", *map(str, arguments)]
    done = subprocess.run(
        command,
        input=json.dumps(stdin) if stdin is not None else "",
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def pull(models: Path, source: object, digest: str | None = None, **environment: str) -> tuple[int, Lines, str]:
    request = {"source": source, "digest": digest}
    return run("pull", "--models", models, "--request", "-", stdin=request, environment=environment)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def modelfile(tmp_path: Path, gguf_file: Path) -> Path:
    shutil.copy(gguf_file, tmp_path / "tiny.gguf")
    path = tmp_path / "Modelfile"
    path.write_text("FROM ./tiny.gguf\nPARAMETER temperature 0\nPARAMETER numa 1\nSYSTEM Be kind.\nLICENSE MIT\n")
    return path


@pytest.fixture
def seeded(models: Path, modelfile: Path) -> Path:
    code, lines, errors = run("store", "--models", models, "create", "Tiny:1b", "-f", modelfile)
    assert (code, lines[-1]) == (0, {"status": "success"}), errors
    return models


def test_create_list_show_cp_rm(seeded: Path) -> None:
    store = ("store", "--models", seeded)
    assert [model["name"] for model in run(*store, "list")[1][0]["models"]] == ["Tiny:1b"]
    assert run(*store, "show", "tiny:1B")[1][0]["system"] == "Be kind."
    assert run(*store, "cp", "tiny:1b", "me/copy")[:2] == (0, [{"copied": ["tiny:1b", "me/copy:latest"]}])
    assert run(*store, "rm", "tiny:1b", "me/copy")[:2] == (0, [{"deleted": ["tiny:1b", "me/copy:latest"]}])
    assert run(*store, "list")[:2] == (0, [{"models": []}])
    assert list((seeded / "blobs").iterdir()) == []


def test_rm_of_the_last_name_frees_what_a_pull_pinned(seeded: Path) -> None:
    request = {"source": {"ollama": {"name": "tiny:1b"}}, "digest": None}
    assert run("pull", "--models", seeded, "--request", "-", stdin=request)[0] == 0
    store = ("store", "--models", seeded)
    run(*store, "cp", "tiny:1b", "copy")
    run(*store, "rm", "tiny:1b")
    assert len(list((seeded / "blobs").iterdir())) > 0
    run(*store, "rm", "copy")
    assert list((seeded / "blobs").iterdir()) == []
    assert not (seeded / "manifests" / "pins.paddock.dev").exists()


def test_create_prints_statuses(models: Path, modelfile: Path) -> None:
    code, lines, _ = run("store", "--models", models, "create", "x", "-f", modelfile)
    texts = [line["status"] for line in lines]
    assert code == 0
    assert texts[0] == "warning: (line 3): parameter 'numa' was removed and has no effect"
    assert texts[1:3] == ["parsing GGUF", "copying tiny.gguf"]
    assert texts[-2:] == ["writing manifest", "success"]
    assert lines[2]["completed"] == lines[2]["total"] > 0


@pytest.mark.parametrize(
    ("arguments", "reason", "match"),
    [
        (("show", "nope"), "NotFound", "nope"),
        (("rm", "nope"), "NotFound", "nope"),
        (("cp", "nope", "b"), "NotFound", "nope"),
        (("show", "a//b"), "InvalidName", "namespace"),
        (("rm", f"pins.paddock.dev/sha256/{'0' * 64}"), "InvalidName", "reserved"),
        (("create", "a b", "-f", "Modelfile"), "InvalidName", "model"),
        (("create", "x", "-f", "missing"), "InvalidModelfile", "cannot read"),
        (("create", "x", "-f", "Modelfile"), "InvalidModelfile", "(line 2): command must be one of"),
    ],
)
def test_failures_are_one_object(tmp_path: Path, arguments: tuple[str, ...], reason: str, match: str) -> None:
    (tmp_path / "Modelfile").write_text("FROM x\nNONSENSE y\n")
    shown = [str(tmp_path / word) if word in ("Modelfile", "missing") else word for word in arguments]
    code, lines, errors = run("store", "--models", tmp_path / "models", *shown)
    assert (code, len(lines), errors) == (1, 1, "")
    assert lines[0]["reason"] == reason
    assert match in lines[0]["error"]


def test_a_bad_gguf_is_refused(models: Path, modelfile: Path) -> None:
    broken = modelfile.parent / "tiny.gguf"
    broken.write_bytes(broken.read_bytes()[:-1])
    code, lines, _ = run("store", "--models", models, "create", "x", "-f", modelfile)
    assert (code, lines[-1]["reason"]) == (1, "TruncatedGGUF")
    assert run("store", "--models", models, "list")[1] == [{"models": []}]


def test_create_on_a_full_disk(small_disk: Path, modelfile: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * (800 << 10))
    code, lines, _ = run("store", "--models", small_disk / "models", "create", "x", "-f", modelfile)
    assert (code, lines[-1]["reason"]) == (1, "NoSpace")
    assert list((small_disk / "models" / "blobs").iterdir()) == []


def test_pull_of_a_cached_name(seeded: Path) -> None:
    for path in (seeded / ".paddock" / "verified").iterdir():
        path.unlink()
    code, lines, errors = pull(seeded, {"ollama": {"name": "tiny:1b"}})
    assert code == 0, errors
    *progress, last = lines
    result = last["result"]
    model = next(file for file in result["files"] if file["role"] == "model")
    assert last["event"] == "result"
    assert result["name"] == "registry.ollama.ai/library/Tiny:1b"
    assert [file["role"] for file in result["files"]] == ["model", "system", "params", "license"]
    assert result["size"] == sum(file["size"] for file in result["files"])
    assert result["details"]["contextLength"] == 4096
    assert {
        "event": "progress",
        "digest": model["digest"],
        "completed": model["size"],
        "total": model["size"],
    } in progress
    assert Store(seeded).has_verified(Digest.parse(model["digest"]))
    assert len(json.dumps(result)) <= 4096


def test_a_pinned_digest_outlives_a_move_of_its_name(seeded: Path, modelfile: Path) -> None:
    digest = pull(seeded, {"ollama": {"name": "tiny:1b"}})[1][-1]["result"]["digest"]
    modelfile.write_text("FROM ./tiny.gguf\nSYSTEM Be brief.\n")
    assert run("store", "--models", seeded, "create", "tiny:1b", "-f", modelfile)[0] == 0
    assert run("store", "--models", seeded, "show", "tiny:1b")[1][0]["system"] == "Be brief."
    code, lines, _ = pull(seeded, {"ollama": {"name": "tiny:1b"}}, digest)
    assert code == 0
    assert lines[-1]["result"]["digest"] == digest
    assert lines[-1]["result"]["name"] == "registry.ollama.ai/library/tiny:1b"
    assert pull(seeded, {"ollama": {"name": "tiny:1b", "digest": digest}})[0] == 0


def test_a_moved_tag_is_not_taken_for_the_pin(seeded: Path) -> None:
    code, lines, _ = pull(seeded, {"ollama": {"name": "tiny:1b"}}, "sha256:" + "0" * 64, PADDOCK_OFFLINE="1")
    assert (code, lines[-1]["reason"], lines[-1]["retryable"]) == (1, "Offline", False)


@pytest.mark.parametrize(
    ("request_", "reason", "match"),
    [
        ({"source": {"ollama": {"name": "nope"}}}, "Offline", "PADDOCK_OFFLINE"),
        ({"source": {"oci": {"reference": "r"}}}, "SourceUnsupported", "source.oci.reference"),
        ({"source": {"ollama": {"name": "x"}}, "digest": "md5:1"}, "SourceUnsupported", "digest"),
        ({"source": {"http": {"url": "http://h/x", "sha256": "0" * 64}}}, "InsecureSource", "h would be reached"),
        ({"source": {"http": {"url": "https://127.0.0.1/x", "sha256": "0" * 64}}}, "ForbiddenAddress", "not public"),
        ([], "SourceUnsupported", "JSON object"),
    ],
)
def test_failed_pulls_are_one_event(models: Path, request_: object, reason: str, match: str) -> None:
    offline = {"PADDOCK_OFFLINE": "1"} if reason == "Offline" else {}
    code, lines, _ = run("pull", "--models", models, "--request", "-", stdin=request_, environment=offline)
    assert code == 1
    assert lines == [{"event": "error", "reason": reason, "message": lines[0]["message"], "retryable": False}]
    assert match in lines[0]["message"]


def test_the_request_may_be_a_file(seeded: Path, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text('{"source":{"ollama":{"name":"tiny:1b"}},"digest":null}')
    assert run("pull", "--models", seeded, "--request", path)[0] == 0
    path.write_text("{")
    assert run("pull", "--models", seeded, "--request", path)[1][0]["reason"] == "SourceUnsupported"
    assert run("pull", "--models", seeded, "--request", tmp_path / "missing")[0] == 1
    assert run("pull", "--models", seeded)[0] == 2


def test_a_corrupt_blob_fails_the_pull(seeded: Path) -> None:
    stored = Store(seeded).manifest(ModelName.parse("tiny:1b"))
    path = seeded / "blobs" / stored.manifest.layers[0].digest.file_name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, lines, _ = pull(seeded, {"ollama": {"name": "tiny:1b"}}, PADDOCK_OFFLINE="1")
    assert (code, lines[-1]["reason"]) == (1, "DigestMismatch")


def test_a_read_only_cache_serves_without_a_pin(small_disk: Path, modelfile: Path) -> None:
    models = small_disk / "models"
    assert run("store", "--models", models, "create", "x", "-f", modelfile)[0] == 0
    remount_read_only(small_disk)
    code, lines, errors = pull(models, {"ollama": {"name": "x"}})
    assert (code, lines[-1]["event"]) == (0, "result")
    assert "not pinned" in errors
    assert not (models / "manifests" / "pins.paddock.dev").exists()


def test_pull_over_http(models: Path, gguf_file: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(gguf_file.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        host = f"127.0.0.1:{server.server_port}"
        sha256 = Digest.of(gguf_file.read_bytes()).hex
        source = {"http": {"url": f"http://{host}/tiny.gguf", "sha256": sha256}}
        allowed = {"PADDOCK_ALLOW_INSECURE_HOSTS": host}
        code, lines, _ = pull(models, source, **allowed)
        server.shutdown()
        thread.join(10)
    assert (code, lines[-1]["event"]) == (0, "result")
    assert lines[-1]["result"]["name"] == f"http.paddock.dev/sha256/{sha256}:latest"
    assert lines[0]["event"] == "progress"
    code, lines, _ = pull(models, {"http": {**source["http"], "sha256": "1" * 64}}, **allowed)
    assert (code, lines[-1]["reason"], lines[-1]["retryable"]) == (75, "NetworkError", True)


def test_a_result_with_many_licenses_stays_small(seeded: Path, modelfile: Path) -> None:
    modelfile.write_text("FROM tiny:1b\n" + "".join(f"LICENSE text {index}\n" for index in range(60)))
    assert run("store", "--models", seeded, "create", "many", "-f", modelfile)[0] == 0
    result = pull(seeded, {"ollama": {"name": "many"}})[1][-1]["result"]
    event = json.dumps({"event": "result", "result": result}, separators=(",", ":"))
    assert 3800 < len(event) <= 4096
    assert result["files"][0]["role"] == "model"


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run("store", "--models", tmp_path / "file", "list")[1][0]["reason"] == "CacheUnusable"
    assert pull(tmp_path / "file", {"ollama": {"name": "x"}})[1][0]["reason"] == "CacheUnusable"
