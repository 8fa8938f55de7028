"""`paddock get` and `paddock describe`: the declared objects with their status, of this machine or of a cluster.

On this machine they come from the state files of the home; when no `paddock up` owns it nothing keeps those statuses
true, so Ready is shown as Unknown.
"""

from __future__ import annotations

import argparse
import sys
from typing import Protocol

from paddock_operator.cli import show
from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.place import target_of
from paddock_operator.cli.show import Object
from paddock_operator.executors.local import state
from paddock_operator.executors.local.context import utc_now
from paddock_operator.executors.local.home import Home, owner
from paddock_operator.executors.local.status import not_running

_KINDS = {"model": "Model", "models": "Model", "endpoint": "Endpoint", "endpoints": "Endpoint"}
_ALL = ("Model", "Endpoint")


class Shelf(Protocol):
    """Where objects are: the home of this machine, or a cluster. `name` says it to people."""

    name: str

    def objects(self, kind: str, name: str | None) -> list[Object]:
        """The objects of a kind, or the one of that name in each namespace that is asked for."""
        ...

    def spread(self, found: list[Object]) -> bool:
        """Whether a table of these shows their namespaces."""
        ...

    def describe_more(self, document: Object) -> None:
        """Print what is known about an object beyond itself."""
        ...


def get(arguments: argparse.Namespace) -> int:
    """List objects of one kind or of both, or print one."""
    kinds = _ALL if arguments.kind.lower() == "all" else (_kind(arguments.kind),)
    shelf = _shelf(arguments)
    found = [(kind, shelf.objects(kind, arguments.name)) for kind in kinds]
    everything = [document for _, documents in found for document in documents]
    if arguments.name and not everything:
        raise CliError(f"no {' or '.join(kinds)} {arguments.name!r} in {shelf.name}")
    if arguments.output in ("json", "yaml"):
        single = bool(arguments.name) and len(everything) == 1
        show.dump(everything, arguments.output, single=single)
    elif len(kinds) == 1:
        show.objects_table(kinds[0], everything, wide=arguments.output == "wide", spread=shelf.spread(everything))
    else:
        _tables(found, shelf, wide=arguments.output == "wide")
    return 0


def _tables(found: list[tuple[str, list[Object]]], shelf: Shelf, *, wide: bool) -> None:
    for place, (kind, documents) in enumerate((kind, documents) for kind, documents in found if documents):
        if place:
            sys.stdout.write("\n")
        prefix = f"{kind.lower()}/"
        show.objects_table(kind, documents, wide=wide, spread=shelf.spread(documents), prefix=prefix)
    if not any(documents for _, documents in found):
        sys.stderr.write(f"no Models and no Endpoints in {shelf.name}\n")


def _kind(word: str) -> str:
    kind = _KINDS.get(word.lower())
    if kind is None:
        raise CliError(f"{word!r} is no kind of object; use models, endpoints or (for get) all", BAD_USAGE)
    return kind


def describe(arguments: argparse.Namespace) -> int:
    """Print one object for a person: spec, status, conditions. The same name in two namespaces needs -n."""
    kind = _kind(arguments.kind)
    shelf = _shelf(arguments)
    found = shelf.objects(kind, arguments.name)
    if not found:
        raise CliError(f"no {kind} {arguments.name!r} in {shelf.name}")
    if len(found) > 1:
        places = ", ".join(document["metadata"]["namespace"] for document in found)
        raise CliError(f"{kind} {arguments.name!r} is in several namespaces ({places}); choose one with -n", BAD_USAGE)
    show.describe_object(found[0])
    shelf.describe_more(found[0])
    return 0


def _shelf(arguments: argparse.Namespace) -> Shelf:
    target = target_of(arguments)
    if target is None:
        return LocalShelf(home_of(arguments), arguments.namespace)
    # Only here: the client of a cluster costs most of a second to import.
    from paddock_operator.cli.cluster.objects import ClusterShelf

    return ClusterShelf(target, all_namespaces=arguments.all_namespaces)


class LocalShelf:
    """The state files of a home, of one namespace or of all."""

    def __init__(self, home: Home, namespace: str | None) -> None:
        self.name = f"namespace {namespace} in {home.root}" if namespace else str(home.root)
        self._home, self._namespace = home, namespace

    def objects(self, kind: str, name: str | None) -> list[Object]:
        running = owner(self._home) is not None
        found = []
        for ref in state.stored(self._home, kind):
            document = state.read(self._home, ref)
            wanted = self._namespace in (None, ref.namespace) and name in (None, ref.name)
            if document is not None and wanted:
                found.append(document if running else _truth(document))
        return found

    def spread(self, found: list[Object]) -> bool:
        return any(document["metadata"]["namespace"] != "default" for document in found)

    def describe_more(self, document: Object) -> None:
        """Nothing: logs are files here."""


def _truth(document: Object) -> Object:
    return {**document, "status": not_running(document.get("status") or {}, utc_now())}
