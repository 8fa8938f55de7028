"""`paddock create | list | show | rm | cp | pull`: the cache of models, through `paddock-runner store`.

The operator side never touches model bytes: a child does, and its JSON is printed for people.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.progress import Bars
from paddock_operator.cli.text import ago, size, table
from paddock_operator.executors.local import state
from paddock_operator.executors.local.home import Home, owner
from paddock_operator.executors.local.plain import safe

Reply = dict[str, Any]


def _store(home: Home, *arguments: str) -> Iterator[Reply]:
    """Run one store command; its JSON lines. Raises CliError with the child's own message when it fails."""
    argv = [sys.executable, "-m", "paddock_runner", "store", "--models", str(home.models), *arguments]
    # Logs go to a file: a pipe that nobody reads would block a child that has much to say.
    with (
        tempfile.TemporaryFile() as logs,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=logs, stdin=subprocess.DEVNULL) as child,
    ):
        try:
            yield from _replies(child, logs)
        except BaseException:
            child.terminate()
            raise


def _replies(child: subprocess.Popen[bytes], logs: IO[bytes]) -> Iterator[Reply]:
    for line in child.stdout or ():
        reply = _parse(line)
        if "error" in reply:
            raise CliError(str(reply["error"]))
        yield reply
    if child.wait() != 0:
        raise CliError(_last_line(logs) or f"paddock-runner store ended with status {child.returncode}")


def _last_line(logs: IO[bytes]) -> str:
    size_now = logs.seek(0, os.SEEK_END)
    logs.seek(max(0, size_now - 4096))
    lines = logs.read().decode(errors="replace").strip().splitlines()
    return safe(lines[-1]) if lines else ""


def _parse(line: bytes) -> Reply:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return found
    raise CliError("paddock-runner store wrote something that is no JSON object")


def _one(home: Home, *arguments: str) -> Reply:
    return next(iter([*_store(home, *arguments)]), {})


def create(arguments: argparse.Namespace) -> int:
    """Make a model from a Modelfile, showing progress on stderr."""
    home = home_of(arguments)
    modelfile = Path(arguments.file)
    if not modelfile.is_file():
        raise CliError(f"{modelfile}: no such Modelfile; name it with -f", BAD_USAGE)
    home.prepare()
    with Bars() as bars:
        for reply in _store(home, "create", arguments.name, "-f", str(modelfile)):
            bars.show(safe(str(reply.get("status", ""))), reply.get("completed"), reply.get("total"))
    return 0


def list_models(arguments: argparse.Namespace) -> int:
    """Print the models of the cache, the newest first."""
    now = datetime.now(UTC)
    models = _one(home_of(arguments), "list").get("models") or []
    rows = [(one["name"], _short(one["digest"]), size(one["size"]), ago(one["modified_at"], now)) for one in models]
    table(("NAME", "ID", "SIZE", "MODIFIED"), rows)
    return 0


def names_of_cache(home: Home) -> list[str]:
    """The names of all models of the cache, the newest first."""
    return [str(one["name"]) for one in _one(home, "list").get("models") or []]


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def show(arguments: argparse.Namespace) -> int:
    """Print what a model is: facts, abilities, parameters, system text, license."""
    reply = _one(home_of(arguments), "show", arguments.name)
    details, info = reply.get("details") or {}, reply.get("model_info") or {}
    architecture = str(info.get("general.architecture") or details.get("family") or "")
    facts = [
        ("architecture", architecture),
        ("parameters", str(details.get("parameter_size", ""))),
        ("context length", str(info.get(f"{architecture}.context_length", ""))),
        ("embedding length", str(info.get(f"{architecture}.embedding_length", ""))),
        ("quantization", str(details.get("quantization_level", ""))),
    ]
    _section("Model", [f"{name:<20}{value}" for name, value in facts if value])
    _section("Capabilities", [str(one) for one in reply.get("capabilities") or []])
    _section("Parameters", str(reply.get("parameters") or "").splitlines())
    _section("System", str(reply.get("system") or "").splitlines())
    _section("License", str(reply.get("license") or "").splitlines()[:2])
    return 0


def _section(title: str, lines: list[str]) -> None:
    if lines:
        sys.stdout.write(f"  {title}\n" + "".join(f"    {safe(line)}\n" for line in lines) + "\n")


def remove(arguments: argparse.Namespace) -> int:
    """Remove models, unless a running `paddock up` serves one of them."""
    home = home_of(arguments)
    for name in arguments.names:
        _refuse_served(home, name)
    deleted = _one(home, "rm", *arguments.names).get("deleted") or arguments.names
    for name in deleted:
        sys.stdout.write(f"deleted '{name}'\n")
    return 0


def _refuse_served(home: Home, name: str) -> None:
    running = owner(home)
    if running is None:
        return
    for ref in state.stored(home, "Model"):
        document = state.read(home, ref) or {}
        if full_name(name) in _served(document):
            raise CliError(
                f"{name} is served by {ref} of the running paddock up (process {running.pid}); "
                "remove that Model from its manifests first"
            )


def _served(document: Reply) -> set[str]:
    source = (document.get("spec") or {}).get("source", {}).get("ollama") or {}
    resolved = (document.get("status") or {}).get("resolved") or {}
    names = (source.get("name"), resolved.get("name"))
    return {full_name(name) for name in names if isinstance(name, str) and name}


def full_name(name: str) -> str:
    """`smollm2` as `registry.ollama.ai/library/smollm2:latest`, lower case: two spellings of one model are equal."""
    head, slash, last = name.lower().rpartition("/")
    tagged = last if ":" in last else f"{last}:latest"
    parts = [*(head.split("/") if slash else []), tagged]
    return "/".join([*("registry.ollama.ai", "library")[: max(0, 3 - len(parts))], *parts])


def copy(arguments: argparse.Namespace) -> int:
    """Give a model another name; the bytes are shared."""
    _one(home_of(arguments), "cp", arguments.source, arguments.destination)
    sys.stdout.write(f"copied '{arguments.source}' to '{arguments.destination}'\n")
    return 0


def pull(arguments: argparse.Namespace) -> int:
    """Say that this version does not pull from registries, and what works instead."""
    raise CliError(
        f"cannot pull {arguments.name}: pulling from registries is not part of this version; "
        "use paddock create NAME -f Modelfile, or a Model with spec.source.http {url, sha256}"
    )
