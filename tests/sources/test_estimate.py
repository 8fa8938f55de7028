"""`paddock-runner estimate` as a program: models of a cache, and files behind a URL whose headers alone are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.fault_server import FaultServer, ignores_range, serving, status, whole
from tests.support.gguf_maker import make_gguf
from tests.support.shapes import Size, llama, write_shape

from paddock_runner.sources.addresses import VARIABLE

LARGE = Size(layers=8, width=512, heads=8, head=64, kv_heads=4, hidden=2048, vocab=4096)


def run(*arguments: object, stdin: object = None, **environment: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "paddock_runner", "estimate", *map(str, arguments)],
        input=json.dumps(stdin) if stdin is not None else "",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stderr[-1500:]
    return done.returncode, json.loads(lines[0])


def remote(server: FaultServer, *options: object) -> tuple[int, dict[str, Any]]:
    source = {"http": {"url": server.url, "sha256": server.digest.hex}}
    environment = {VARIABLE: server.host}
    return run("--source", "-", *options, stdin={"source": source}, **environment)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    make_gguf(folder / "tiny.gguf", layers=2)
    (folder / "Modelfile").write_text("FROM ./tiny.gguf\n")
    models = folder / "models"
    command = ["store", "--models", models, "create", "tiny", "-f", folder / "Modelfile"]
    subprocess.run([sys.executable, "-m", "paddock_runner", *map(str, command)], check=True, capture_output=True)
    return models


def test_a_model_of_the_cache(models: Path) -> None:
    code, found = run("--models", models, "tiny", "--context", 1024, "--slots", 2)
    assert code == 0
    parts = ("weights", "kv", "state", "compute", "output", "projector", "process")
    assert found["total"] == sum(found[part] for part in parts)
    assert found["kv"] == 2048 * 2 * 2 * 32 * 2
    assert found["engine"] == {"context": 1024, "slots": 2, "cells": 2048}
    assert found["facts"]["architecture"] == "llama"
    assert found["perGpu"] == []
    smaller = run("--models", models, "tiny", "--context", 1024, "--slots", 2, "--kv-type", "q8_0")[1]
    assert smaller["kv"] * 32 == found["kv"] * 17


def test_layers_on_two_gpus(models: Path) -> None:
    found = run("--models", models, "tiny", "--gpus", "24,24")[1]
    assert sum(gpu["kv"] for gpu in found["perGpu"]) == found["kv"]
    table = found["facts"]["memory"]["input"]
    assert sum(gpu["weights"] for gpu in found["perGpu"]) == found["weights"] - table


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        (("nowhere",), "NotFound", "nowhere"),
        ((), "InvalidOption", "NAME"),
        (("a b",), "InvalidName", "name"),
        (("tiny", "--context", "0"), "InvalidOption", "contextLength"),
        (("tiny", "--kv-type", "q9"), "InvalidOption", "typeK"),
        (("tiny", "--slots", "900"), "InvalidOption", "slots"),
        (("tiny", "--gpus", "0"), "InvalidOption", "positive"),
        (("tiny", "--gpus", "x"), "InvalidOption", "--gpus"),
        (("tiny", "--source", "-"), "InvalidOption", "not both"),
    ],
)
def test_refusals(models: Path, arguments: tuple[str, ...], reason: str, words: str) -> None:
    code, found = run("--models", models, *arguments)
    assert (code, found["reason"]) == (1, reason)
    assert words in found["error"]


def test_a_remote_file_is_not_fetched(tmp_path: Path) -> None:
    data = write_shape(tmp_path / "x.gguf", llama(LARGE)).read_bytes()
    with serving(data) as server:
        code, found = remote(server, "--context", 512)
        assert code == 0, found
        assert found["weights"] > 25_000_000
        assert server.sent < 3 << 20, "a header has some hundred KiB; a first read has one MiB"
        assert all(asked for asked in server.ranges), "no request for the whole file"


def test_a_server_without_ranges_and_one_that_has_nothing() -> None:
    with serving(b"GGUF" * 1000) as server:
        server.script = [ignores_range]
        assert remote(server)[1]["reason"] == "NetworkError"
        server.script = [status(404)]
        assert remote(server)[1]["reason"] == "NotFound"
        server.script = [whole]
        code, found = remote(server)
        assert (code, found["reason"]) == (1, "InvalidGGUF")


@pytest.mark.parametrize("request_text", ["[]", "{}", '{"source":{"nosuch":{}}}', '{"source":'])
def test_requests_that_are_none(request_text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paddock_runner", "estimate", "--source", "-"],
        input=request_text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["reason"]) == (1, "SourceUnsupported")


def test_a_file_that_pools_is_measured_as_it_will_be_served(models: Path) -> None:
    make_gguf(models.parent / "pools.gguf", layers=2, pooling_type=3)
    (models.parent / "Modelfile").write_text("FROM ./pools.gguf\n")
    command = ["store", "--models", models, "create", "pools", "-f", models.parent / "Modelfile"]
    subprocess.run([sys.executable, "-m", "paddock_runner", *map(str, command)], check=True, capture_output=True)
    code, found = run("--models", models, "pools")
    assert (code, found["engine"]) == (0, {"context": 2048, "slots": 32, "cells": 2048})
    assert found["output"] == 4 * (512 + 64) * 32
