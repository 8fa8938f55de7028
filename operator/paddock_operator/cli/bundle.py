"""`paddock export | import`: models as one file for machines without a network, and the models of Ollama's folder."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from paddock_operator.cli.child import Call, Reply, run
from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.progress import Bars
from paddock_operator.cli.store import is_json, nothing
from paddock_operator.cli.text import size
from paddock_operator.executors.local.plain import safe

STANDARD = "-"
OLLAMA = "ollama"
_FOLDERS = ("~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama/models")
"""Where Ollama keeps models: of a person, and of the service that its installer or a distribution makes."""


def export(arguments: argparse.Namespace) -> int:
    """Write models as one tar file, or to standard output."""
    to_stdout = arguments.file == STANDARD
    if to_stdout and sys.stdout.isatty():
        raise CliError("standard output is a terminal; pipe it, or name a file with -o", BAD_USAGE)
    call = Call(
        home_of(arguments),
        "export",
        ("-o", arguments.file, "--", *arguments.names),
        interrupted="the bundle is not whole" if to_stdout else f"{arguments.file} was not written",
        data_out=to_stdout,
    )
    with Bars() as bars:
        return run(call, bars.reply)


def import_(arguments: argparse.Namespace) -> int:
    """Bring in the models of a bundle, or (`ollama`) of Ollama's folder."""
    if arguments.what == OLLAMA:
        return _import_ollama(arguments)
    if arguments.names:
        raise CliError("a bundle is imported whole: give no names, or `import ollama [DIR] NAME…`", BAD_USAGE)
    if arguments.what == STANDARD and sys.stdin.isatty():
        raise CliError("standard input is a terminal; pipe a bundle in, or name its file", BAD_USAGE)
    home = home_of(arguments)
    home.prepare()
    call = Call(
        home,
        "import",
        ("--", arguments.what),
        interrupted="what came over whole is kept, and used when the same command runs again",
        raw=is_json(arguments),
        stdin=arguments.what == STANDARD,
    )
    if call.raw:
        return run(call, nothing)
    with Bars() as bars:
        return run(call, bars.reply)


def _import_ollama(arguments: argparse.Namespace) -> int:
    home = home_of(arguments)
    folder, names = _folder(arguments.names)
    home.prepare()
    call = Call(
        home,
        "import-ollama",
        ("--", str(folder), *names),
        interrupted="the models that came over stay; the same command takes the others",
        raw=is_json(arguments),
    )
    if call.raw:
        return run(call, nothing)
    told: list[Reply] = []
    with Bars() as bars:
        code = run(call, lambda reply: bars.reply(reply) if "total" in reply else told.append(reply))
    for reply in told:
        _tell(reply)
    return code


def _folder(words: list[str]) -> tuple[Path, list[str]]:
    """The folder, the first word if it looks like one, and the names."""
    if words and (words[0].startswith(("/", ".", "~")) or (Path(words[0]) / "manifests").is_dir()):
        return Path(words[0]).expanduser(), words[1:]
    given = os.environ.get("OLLAMA_MODELS")
    places = [Path(place).expanduser() for place in ([given] if given else _FOLDERS)]
    found = next((place for place in places if (place / "manifests").is_dir()), None)
    if found is None:
        looked = ", ".join(map(str, places))
        raise CliError(f"no folder of Ollama's models (looked for {looked}); name it: paddock import ollama DIR")
    return found, words


def _tell(reply: Reply) -> None:
    name = safe(str(reply.get("name", "")))
    if "error" in reply:
        sys.stderr.write(f"{name}: {safe(str(reply['error']))}\n")
    elif reply.get("status") == "imported":
        sys.stdout.write(f"imported '{name}' ({size(reply['size'])})\n")
    elif reply.get("imported") == reply.get("failed") == 0:
        sys.stderr.write("there is no model to import\n")
    else:
        sys.stderr.write(_sum(reply) + "\n")


def _sum(reply: Reply) -> str:
    ways = [f"{size(reply[way])} {way}" for way in ("linked", "cloned", "copied") if reply.get(way)]
    held = [f"{size(reply['held'])} there before"] if reply.get("held") else []
    counts = f"{reply['imported']} imported" + (f", {reply['failed']} failed" if reply["failed"] else "")
    return ": ".join([counts, ", ".join([*ways, *held])]) if ways or held else counts
