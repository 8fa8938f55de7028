"""`paddock get` and `paddock describe`: the declared objects with their status, from the state files of the home.

When no `paddock up` owns the home nothing keeps those statuses true, so Ready is shown as Unknown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from paddock_operator.cli.columns import columns
from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.text import age, table
from paddock_operator.core.resources import API_VERSION
from paddock_operator.executors.local import state
from paddock_operator.executors.local.context import utc_now
from paddock_operator.executors.local.crdfiles import crds
from paddock_operator.executors.local.home import owner
from paddock_operator.executors.local.plain import safe
from paddock_operator.executors.local.status import not_running

Object = dict[str, Any]
_KINDS = {"model": "Model", "models": "Model", "endpoint": "Endpoint", "endpoints": "Endpoint"}


def get(arguments: argparse.Namespace) -> int:
    """List objects of one kind, or print one."""
    kind = _kind(arguments.kind)
    found = _objects(arguments, kind)
    if arguments.name and not found:
        raise CliError(_missing(kind, arguments))
    if arguments.output in ("json", "yaml"):
        _dump(found[0] if arguments.name else _list(found), arguments.output)
    else:
        _table(kind, found, arguments.output == "wide")
    return 0


def _kind(word: str) -> str:
    kind = _KINDS.get(word.lower())
    if kind is None:
        raise CliError(f"{word!r} is no kind of object; use models or endpoints", BAD_USAGE)
    return kind


def _missing(kind: str, arguments: argparse.Namespace) -> str:
    where = f" in namespace {arguments.namespace}" if arguments.namespace else ""
    return f"no {kind} {arguments.name!r}{where} in {home_of(arguments).root}"


def _objects(arguments: argparse.Namespace, kind: str) -> list[Object]:
    home = home_of(arguments)
    running = owner(home) is not None
    found = []
    for ref in state.stored(home, kind):
        document = state.read(home, ref)
        wanted = arguments.namespace in (None, ref.namespace) and arguments.name in (None, ref.name)
        if document is not None and wanted:
            found.append(document if running else _truth(document))
    return found


def _truth(document: Object) -> Object:
    return {**document, "status": not_running(document.get("status") or {}, utc_now())}


def _list(found: list[Object]) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": found}


def _dump(document: Object, form: str) -> None:
    if form == "json":
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _table(kind: str, found: list[Object], wide: bool) -> None:
    crd = next(crd for crd in crds() if crd["spec"]["names"]["kind"] == kind)
    shown = [column for column in columns(crd) if wide or not column.wide]
    spread = any(document["metadata"]["namespace"] != "default" for document in found)
    now = datetime.now(UTC)
    rows = []
    for document in found:
        metadata = document["metadata"]
        head = [metadata["namespace"], metadata["name"]] if spread else [metadata["name"]]
        rows.append([*head, *(column.cell(document, now) for column in shown)])
    table([*(["NAMESPACE"] if spread else []), "NAME", *(column.title for column in shown)], rows)


def describe(arguments: argparse.Namespace) -> int:
    """Print one object for a person: spec, status, conditions. The same name in two namespaces needs -n."""
    kind = _kind(arguments.kind)
    found = _objects(arguments, kind)
    if not found:
        raise CliError(_missing(kind, arguments))
    if len(found) > 1:
        places = ", ".join(document["metadata"]["namespace"] for document in found)
        raise CliError(f"{kind} {arguments.name!r} is in several namespaces ({places}); choose one with -n", BAD_USAGE)
    _describe(found[0])
    return 0


def _describe(document: Object) -> None:
    metadata, status = document["metadata"], dict(document.get("status") or {})
    conditions = status.pop("conditions", [])
    head = {
        "Name": metadata["name"],
        "Namespace": metadata["namespace"],
        "Kind": f"{document['kind']} ({API_VERSION})",
        "Generation": metadata.get("generation"),
        "Created": metadata.get("creationTimestamp"),
    }
    for title, value in head.items():
        sys.stdout.write(f"{title + ':':<13}{safe(str(value))}\n")
    for title, part in (("Labels", metadata.get("labels")), ("Spec", document["spec"]), ("Status", status)):
        if part:
            sys.stdout.write(f"{title}:\n{_indented(part)}")
    sys.stdout.write("Conditions:\n")
    now = datetime.now(UTC)
    table(("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"), [_row(condition, now) for condition in conditions])


def _indented(part: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(part), sort_keys=False, allow_unicode=True)
    return "".join(f"  {line}\n" for line in text.splitlines())


def _row(condition: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    words = [str(condition.get(name, "")) for name in ("type", "status", "reason")]
    return (*words, age(str(condition.get("lastTransitionTime", "")), now), str(condition.get("message", "")))
