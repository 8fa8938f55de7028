"""`paddock pull` and `paddock push`: models from registries and to them, through `paddock-runner`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paddock_operator.cli.child import Call, Reply, run
from paddock_operator.cli.errors import BAD_USAGE, CliError, RunnerError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.progress import Bars
from paddock_operator.cli.store import full_name, is_json, models_of_cache, nothing, short
from paddock_operator.cli.text import ago
from paddock_operator.executors.local.home import Home

INSECURE_HOSTS = "PADDOCK_ALLOW_INSECURE_HOSTS"
_OCI = "oci:"
_UNREACHED = ("Offline", "NetworkError")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: an OCI artifact or a name as Ollama writes it; `insecure`: over plain HTTP."""

    name: str
    is_oci: bool
    insecure: bool

    @classmethod
    def parse(cls, text: str, insecure: bool) -> Wanted:
        """Read `[oci:][http://]NAME`. Raises CliError for words that do not go together."""
        is_oci = text.startswith(_OCI)
        name = text.removeprefix(_OCI).removeprefix("//") if is_oci else text
        if insecure and name.startswith("https://"):
            raise CliError("--insecure means plain HTTP; leave out either that or https://", BAD_USAGE)
        wanted = cls(name, is_oci, insecure)
        if insecure and not wanted._names_a_host:
            form = "host[:port]/repository:tag" if is_oci else "host[:port]/namespace/model:tag"
            raise CliError(f"--insecure needs a name that says which registry is meant: {form}", BAD_USAGE)
        return wanted

    @property
    def bare(self) -> str:
        """The name without its scheme."""
        return self.name.removeprefix("http://").removeprefix("https://")

    @property
    def _names_a_host(self) -> bool:
        slashes = self.bare.partition("@")[0].count("/")
        return slashes >= 1 if self.is_oci else slashes >= 2

    @property
    def source(self) -> dict[str, Any]:
        """As `Model.spec.source` has it."""
        name = f"http://{self.bare}" if self.insecure else self.name
        return {"oci": {"reference": name}} if self.is_oci else {"ollama": {"name": name}}

    @property
    def environment(self) -> dict[str, str]:
        """The settings of the child: who says --insecure has listed the host by hand."""
        if not self.insecure:
            return {}
        listed = [*filter(None, os.environ.get(INSECURE_HOSTS, "").split(",")), self.bare.partition("/")[0]]
        return {INSECURE_HOSTS: ",".join(listed)}

    def is_held_as(self, name: str) -> bool:
        """Whether this is the cache's model `name`."""
        return full_name(self.bare.partition("@")[0]) == full_name(name)


def pull(arguments: argparse.Namespace) -> int:
    """Ask the registry for a model and bring its bytes into the cache, verified, with progress on stderr."""
    home, wanted = home_of(arguments), Wanted.parse(arguments.name, arguments.insecure)
    credentials = _credentials(arguments)
    home.prepare()
    # Who pulls by hand wants what the registry has now.
    request = {"source": wanted.source, "digest": None, "fresh": True}
    call = Call(
        home,
        "pull",
        ("--request", "-", *credentials),
        given=json.dumps(request).encode(),
        environment=wanted.environment,
        interrupted=f"what arrived is kept: paddock pull {arguments.name} goes on from there",
        raw=is_json(arguments),
    )
    try:
        return run(call, nothing) if call.raw else _pull_with_bars(call, wanted)
    except RunnerError as error:
        if error.reason not in _UNREACHED:
            raise
        raise RunnerError(f"{error}{_held(home, wanted)}", error.code, error.reason) from None


def _pull_with_bars(call: Call, wanted: Wanted) -> int:
    results: list[Reply] = []
    with Bars() as bars:
        bars.show("pulling manifest")

        def show(reply: Reply) -> None:
            if reply.get("event") == "progress":
                bars.show(f"pulling {short(str(reply['digest']))}", reply["completed"], reply["total"])
            elif reply.get("event") == "result":
                results.append(reply["result"])

        code = run(call, show)
        for file in results[-1]["files"] if results else ():
            bars.show(f"pulling {short(str(file['digest']))}", file["size"], file["size"])
        # Both are done by now: bytes are hashed as they come. Whoever waits for Ollama's words finds them.
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            bars.show(status)
    if results and wanted.is_oci:
        sys.stderr.write(f"stored as {results[-1]['name']}\n")
    return code


def _held(home: Home, wanted: Wanted) -> str:
    """What the cache holds under the name that could not be asked for."""
    for model in models_of_cache(home):
        if wanted.is_held_as(str(model["name"])):
            when = ago(str(model["modified_at"]), datetime.now(UTC))
            return f"; the cache holds {model['name']} ({short(model['digest'])}, {when}), which serves as it is"
    return ""


def push(arguments: argparse.Namespace) -> int:
    """Send a model of the cache to a registry, with progress on stderr."""
    Wanted.parse(arguments.destination or arguments.name, arguments.insecure)
    words = [*_credentials(arguments), *(["--insecure"] if arguments.insecure else [])]
    names = [arguments.name, *([arguments.destination] if arguments.destination else [])]
    call = Call(
        home_of(arguments),
        "push",
        (*words, "--", *names),
        interrupted="what the registry took it keeps: the same command sends the rest",
        raw=is_json(arguments),
    )
    if call.raw:
        return run(call, nothing)
    with Bars() as bars:
        return run(call, bars.reply)


def _credentials(arguments: argparse.Namespace) -> tuple[str, ...]:
    folder = arguments.credentials
    if folder is None:
        return ()
    if not Path(folder).is_dir():
        raise CliError(f"--credentials: {folder} is not a folder", BAD_USAGE)
    return ("--credentials", str(folder))
