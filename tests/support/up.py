"""A real `paddock up` with its home, for end-to-end tests. Output is read through threads with deadlines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml
from tests.support.waiting import Lines, alive, descendants, until_sync

MODEL = {"apiVersion": "paddock.dev/v1alpha1", "kind": "Model"}
ENDPOINT = {"apiVersion": "paddock.dev/v1alpha1", "kind": "Endpoint"}
DRAIN = 20.0


def model(name: str, source: str | None = None, **spec: Any) -> dict[str, Any]:
    """A Model that is served from the cache; one thread: two that wait for each other crawl on a busy machine."""
    serving = {"contextLength": 1024, "slots": 2} | spec.pop("serving", {})
    parameters = {"num_thread": 1} | spec.pop("parameters", {})
    body = {"source": {"ollama": {"name": source or name}}, "serving": serving, "parameters": parameters} | spec
    return MODEL | {"metadata": {"name": name}, "spec": body}


def endpoint(name: str, *models: str, **spec: Any) -> dict[str, Any]:
    """An Endpoint for these Models."""
    return ENDPOINT | {"metadata": {"name": name}, "spec": {"models": [{"name": one} for one in models]} | spec}


def cli(home: Path, *arguments: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one `paddock` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "paddock_operator.cli", *arguments, "--home", str(home)],
        capture_output=True,
        text=True,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        timeout=120,
        env=os.environ | env,
    )


def create(home: Path, name: str, gguf: Path, *lines: str) -> None:
    """Put a GGUF into the home's cache under a name."""
    modelfile = home.parent / f"Modelfile-{name.replace(':', '-')}"
    modelfile.write_text("\n".join([f"FROM {gguf}", *lines]) + "\n")
    done = cli(home, "create", name, "-f", str(modelfile))
    assert done.returncode == 0, done.stderr


class Up:
    """`paddock up` on `folder`; a context manager that leaves no process behind."""

    def __init__(self, home: Path, folder: Path, *arguments: str, json_output: bool = True, stdin: str = "") -> None:
        self.home, self.folder = home, folder
        output = ["--output", "json"] if json_output else []
        given = [] if "-f" in arguments else ["-f", str(folder)]
        listen = [] if "--listen" in arguments else ["--listen", "127.0.0.1:0"]
        argv = [sys.executable, "-m", "paddock_operator.cli", "up", "--home", str(home)]
        self.process = subprocess.Popen(
            [*argv, *given, *listen, *output, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        assert self.process.stdin is not None
        with self.process.stdin as pipe:
            pipe.write(stdin)
        self.out, self.err = Lines(self.process.stdout), Lines(self.process.stderr)
        self.url = self.key = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        children = descendants(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DRAIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError, ValueError):
                assert pipe is not None
                self.out._thread.join(5)
                self.err._thread.join(5)
                pipe.close()
        if kind is None:
            until_sync(lambda: not any(alive(pid) for pid in children), 5)

    @property
    def pid(self) -> int:
        return self.process.pid

    def event(self, event_name: str, seconds: float = 30.0, /, **members: Any) -> dict[str, Any]:
        """The next JSON event of this name with these members."""

        def wanted(line: str) -> bool:
            event = json.loads(line)
            return event["event"] == event_name and all(event.get(key) == value for key, value in members.items())

        found: dict[str, Any] = json.loads(self.out.find(wanted, seconds))
        return found

    def ready(self, seconds: float = 30.0, key: bool = True) -> Self:
        """Wait for the first key and the first ready event."""
        if key:
            self.key = self.event("key", seconds)["secret"]
        self.url = self.event("ready", seconds)["url"]
        return self

    def condition(self, kind: str, name: str, type_: str, seconds: float = 30.0, **members: Any) -> dict[str, Any]:
        """The next event of a condition."""
        return self.event("condition", seconds, kind=kind, name=name, type=type_, **members)

    def client(self, key: str | None = None, url: str | None = None) -> httpx.Client:
        """An HTTP client of the first Endpoint; with the printed key unless another one ("": none) is given."""
        token = self.key if key is None else key
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=url or self.url, headers=headers, timeout=30)

    def stop(self, number: int = signal.SIGTERM, seconds: float = DRAIN) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def children(self, word: str) -> list[int]:
        """Live processes below, whose command line has this word (pull, serve, gateway, engine …)."""
        return [pid for pid in descendants(self.pid) if word in command_line(pid)]


def command_line(pid: int) -> list[str]:
    """The arguments of a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def write(folder: Path, *documents: dict[str, Any], name: str = "all.yaml") -> Path:
    """Write manifests into one file of `folder`, as an editor that saves atomically does."""
    folder.mkdir(exist_ok=True)
    path, temporary = folder / name, folder / f".{name}.tmp"
    temporary.write_text(yaml.safe_dump_all(documents))
    temporary.rename(path)
    return path
