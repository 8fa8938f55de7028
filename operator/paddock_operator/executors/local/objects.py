"""The declared objects of one `paddock up`: documents made whole (namespace, generation, creation time) and parsed.

Called by `controller`. The state folder remembers generation, creation time and status from one run to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.resources import Endpoint, KeyRecord, Model, Ref, parse
from paddock_operator.executors.local import state
from paddock_operator.executors.local.home import Home
from paddock_operator.executors.local.status import not_running
from paddock_operator.executors.local.yamlread import Document

KINDS = ("Model", "Endpoint")


@dataclass(slots=True)
class Declared:
    """One object: the document as it was read, the one that is stored, its parsed form and its status now."""

    document: Document
    body: dict[str, Any]
    parsed: Model | Endpoint
    status: Mapping[str, Any]


def adopt(home: Home, ref: Ref, document: Document, known: Declared | None, now: str) -> Declared:
    """Take a new or changed document: generation + 1 if its spec differs from the one that is known or stored."""
    stored = known.body if known is not None else state.read(home, ref) or {}
    before = stored.get("metadata") or {}
    changed = stored.get("spec") != document.body.get("spec")
    metadata = {
        **document.body["metadata"],
        "namespace": ref.namespace,
        "generation": int(before.get("generation", 0)) + changed,
        "creationTimestamp": before.get("creationTimestamp") or now,
    }
    body = {**document.body, "metadata": metadata}
    body.pop("status", None)
    parsed = parse(body)
    if isinstance(parsed, KeyRecord):
        raise TypeError(f"{ref} is a key")
    status = known.status if known is not None else not_running(stored.get("status") or {}, now)
    return Declared(document, body, parsed, status)
