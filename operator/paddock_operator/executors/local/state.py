"""State files: each object with its status, in the shape of its CRD.

Written by `controller`, read by the CLI and, for pins, by the next `up`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddock_operator.core.resources import Ref
from paddock_operator.executors.local import atomic
from paddock_operator.executors.local.home import Home

Object = dict[str, Any]


def path(home: Home, key: Ref) -> Path:
    """Where the state of one object lies."""
    return home.state(key.kind) / key.namespace / f"{key.name}.json"


def write(home: Home, document: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Write the object with its status if that changed; True when it did."""
    metadata = document["metadata"]
    key = Ref(str(document["kind"]), str(metadata["namespace"]), str(metadata["name"]))
    body = {**document, "status": dict(status)}
    return atomic.write(path(home, key), json.dumps(body, indent=1, sort_keys=True).encode())


def read(home: Home, key: Ref) -> Object | None:
    """The stored object, None when there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path(home, key).read_text())
        return found if isinstance(found, dict) else None
    return None


def remove(home: Home, key: Ref) -> None:
    """Forget an object that is declared no more."""
    path(home, key).unlink(missing_ok=True)


def stored(home: Home, kind: str) -> list[Ref]:
    """All stored objects of one kind, sorted."""
    return sorted(Ref(kind, file.parent.name, file.stem) for file in home.state(kind).glob("*/*.json"))
