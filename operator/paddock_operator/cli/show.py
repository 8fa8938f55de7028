"""Objects for people and programs: tables with the CRDs' columns, JSON, YAML, and the long form of `describe`.

Called by `objects`; the same for this machine and for a cluster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from paddock_operator.cli.columns import columns
from paddock_operator.cli.text import age, table
from paddock_operator.core.resources import API_VERSION
from paddock_operator.executors.local.crdfiles import crds
from paddock_operator.executors.local.plain import safe

Object = dict[str, Any]


def dump(found: Sequence[Object], form: str, *, single: bool) -> None:
    """Print objects as `json` or `yaml`: a List, or the one alone."""
    document = found[0] if single else {"apiVersion": "v1", "kind": "List", "items": list(found)}
    if form == "json":
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def objects_table(kind: str, found: Sequence[Object], *, wide: bool, spread: bool, prefix: str = "") -> None:
    """Print the printer columns of one kind. `spread`: with namespaces; `prefix` stands before each name."""
    crd = next(crd for crd in crds() if crd["spec"]["names"]["kind"] == kind)
    shown = [column for column in columns(crd) if wide or not column.wide]
    now = datetime.now(UTC)
    rows = []
    for document in found:
        metadata = document["metadata"]
        head = [metadata["namespace"]] if spread else []
        rows.append([*head, prefix + metadata["name"], *(column.cell(document, now) for column in shown)])
    table([*(["NAMESPACE"] if spread else []), "NAME", *(column.title for column in shown)], rows)


def describe_object(document: Object) -> None:
    """Print one object: head, labels, spec, status, conditions."""
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
