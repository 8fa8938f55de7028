"""`paddock create | list | rm | cp`: models of the cache, through `paddock-runner store`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from paddock_operator.cli.child import Call, Reply, one, run
from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.progress import Bars
from paddock_operator.cli.text import ago, size, table
from paddock_operator.executors.local import state
from paddock_operator.executors.local.home import Home, owner

OWN_DOMAIN = ".paddock.dev"
"""Below it are the hosts of names that no registry has."""


def is_json(arguments: argparse.Namespace) -> bool:
    """Whether the runner's own lines are wanted."""
    return bool(arguments.output == "json")


def nothing(reply: Reply) -> None:
    """Show nothing: the lines go out as they are."""


def create(arguments: argparse.Namespace) -> int:
    """Make a model from a Modelfile, showing progress on stderr."""
    home = home_of(arguments)
    modelfile = Path(arguments.file)
    if not modelfile.is_file():
        raise CliError(f"{modelfile}: no such Modelfile; name it with -f", BAD_USAGE)
    home.prepare()
    quantize = ("--quantize", arguments.quantize) if arguments.quantize else ()
    call = Call(
        home,
        "store create",
        (*quantize, "-f", str(modelfile), "--", arguments.name),
        interrupted=f"{arguments.name} is as it was before; the same command begins anew",
        raw=is_json(arguments),
    )
    if call.raw:
        return run(call, nothing)
    with Bars() as bars:
        return run(call, bars.reply)


def list_models(arguments: argparse.Namespace) -> int:
    """Print the models of the cache, the newest first; without the names that Paddock wrote for itself."""
    call = Call(home_of(arguments), "store list", (), raw=is_json(arguments))
    models = [item for item in one(call).get("models") or [] if not is_hidden(item)]
    if call.raw:
        return 0
    now = datetime.now(UTC)
    rows = [
        (str(item["name"]), short(item["digest"]), size(item["size"]), ago(item["modified_at"], now)) for item in models
    ]
    table(("NAME", "ID", "SIZE", "MODIFIED"), rows)
    return 0


def is_hidden(model: Reply) -> bool:
    """Whether nobody gave a model its name: a file fetched by URL, a converted model (`http.paddock.dev/…`)."""
    host = str(model["name"]).lower().partition("/")[0]
    return host.endswith(OWN_DOMAIN)


def models_of_cache(home: Home) -> list[Reply]:
    """All models of the cache as `store list` tells them, the newest first."""
    return list(one(Call(home, "store list", ())).get("models") or [])


def names_of_cache(home: Home) -> list[str]:
    """The names of all models of the cache, the newest first."""
    return [str(item["name"]) for item in models_of_cache(home)]


def short(digest: str) -> str:
    """The first twelve digits of a digest."""
    return digest.removeprefix("sha256:")[:12]


def remove(arguments: argparse.Namespace) -> int:
    """Remove models, unless a running `paddock up` serves one of them."""
    home = home_of(arguments)
    for name in arguments.names:
        _refuse_served(home, name)
    call = Call(home, "store rm", ("--", *arguments.names), raw=is_json(arguments))
    deleted = one(call).get("deleted") or arguments.names
    for name in () if call.raw else deleted:
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
    words = ("--", arguments.source, arguments.destination)
    call = Call(home_of(arguments), "store cp", words, raw=is_json(arguments))
    one(call)
    if not call.raw:
        sys.stdout.write(f"copied '{arguments.source}' to '{arguments.destination}'\n")
    return 0
