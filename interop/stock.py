"""A stock `ollama serve` with a home and a model folder of its own, and the calls that the tests make to it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.support.waiting import until_sync

START_SECONDS = 60.0
ANSWER_SECONDS = 300.0
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 8, "num_ctx": 512, "num_thread": 1}


class StockError(Exception):
    """What `ollama` said about a call that failed."""


@dataclass(frozen=True)
class Ollama:
    """A running server. `home` holds its key, `models` its model folder."""

    url: str
    home: Path
    models: Path

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One call; the answer as JSON, or None. Raises StockError."""
        answer = httpx.request(method, self.url + path, json=body, timeout=ANSWER_SECONDS)
        if answer.status_code >= 400:
            raise StockError(answer.text)
        return answer.json() if answer.content else None

    def stream(self, path: str, body: object) -> list[dict[str, Any]]:
        """The lines of an answer that streams. Raises StockError if one is an error."""
        answer = httpx.post(self.url + path, json=body, timeout=ANSWER_SECONDS)
        lines: list[dict[str, Any]] = [json.loads(line) for line in answer.text.splitlines()]
        if "error" in lines[-1]:
            raise StockError(lines[-1]["error"])
        return lines

    def pull(self, name: str) -> list[str]:
        """Pull over plain HTTP; returns the status words."""
        return [line["status"] for line in self.stream("/api/pull", {"model": name, "insecure": True})]

    def push(self, name: str) -> list[str]:
        """Push over plain HTTP; returns the status words."""
        return [line["status"] for line in self.stream("/api/push", {"model": name, "insecure": True})]

    def add_blob(self, path: Path) -> str:
        """Upload a file; returns its digest."""
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            file.seek(0)
            answer = httpx.post(f"{self.url}/api/blobs/{digest}", content=file, timeout=ANSWER_SECONDS)
        if answer.status_code != 201:
            raise StockError(answer.text)
        return digest

    def copy(self, source: str, target: str) -> None:
        self.ask("POST", "/api/copy", {"source": source, "destination": target})

    def names(self) -> set[str]:
        return {item["name"] for item in self.ask("GET", "/api/tags")["models"]}

    def show(self, name: str) -> Any:
        return self.ask("POST", "/api/show", {"model": name})

    def answer(self, name: str, prompt: str) -> str:
        """A short greedy answer to a raw prompt."""
        body = {"model": name, "prompt": prompt, "raw": True, "stream": False, "options": GREEDY, "keep_alive": 0}
        return str(self.ask("POST", "/api/generate", body)["response"])

    @property
    def key(self) -> Path:
        """Its ed25519 key."""
        return self.home / ".ollama" / "id_ed25519"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def serving(program: Path, home: Path, models: Path, **environment: str) -> Iterator[Ollama]:
    """Run `program serve` with more variables in its environment; its log is in `home`."""
    home.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "GGML_", "LLAMA_"))}
    env = keep | {"HOME": str(home), "OLLAMA_MODELS": str(models), "OLLAMA_HOST": host, "OLLAMA_NO_CLOUD": "1"}
    env |= environment
    with open(home / "log", "ab") as log:
        process = subprocess.Popen([program, "serve"], env=env, stdout=log, stderr=log)
        try:
            until_sync(lambda: _answers(host) or process.poll() is not None, START_SECONDS)
            assert process.poll() is None, (home / "log").read_text()
            yield Ollama(f"http://{host}", home, models)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(host: str) -> bool:
    try:
        return httpx.get(f"http://{host}/api/version", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
