"""List-maps and sets of a CRD: entries that may not repeat.

Called by `schema.py` for every object, also where its structure is wrong, as an API server does it.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from paddock_operator.core.problems import DUPLICATE, INVALID, Problem, path_text, worded
from paddock_operator.core.schema_values import Path, Schema, child_schema
from paddock_operator.core.shown import shown


def list_problems(schema: Schema, value: Any, path: Path) -> Iterator[Problem]:
    """Repeated entries of sets and list-maps at any depth. `path`: where the value stands."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            child = child_schema(schema, name)
            if child is not None:
                yield from list_problems(child, item, (*path, name))
    elif isinstance(value, list):
        yield from _entries(schema, value, path)
        for index, item in enumerate(value if "items" in schema else ()):
            yield from list_problems(schema["items"], item, (*path, index))


def _entries(schema: Schema, value: list[Any], path: Path) -> Iterator[Problem]:
    kind = schema.get("x-kubernetes-list-type")
    if kind == "set":
        yield from _repeated(value, path)
    elif kind == "map":
        wrong = next((index for index, item in enumerate(value) if not isinstance(item, Mapping | None)), None)
        if wrong is not None:
            detail = f"{shown(value[wrong])}: must be an object for an array of list-type map"
            yield worded(INVALID, path_text((*path, wrong)), detail, "write fields below it")
            return
        names = schema["x-kubernetes-list-map-keys"]
        yield from _repeated([{name: item[name] for name in names if name in (item or {})} for item in value], path)


def _repeated(identities: list[Any], path: Path) -> Iterator[Problem]:
    seen: dict[Hashable, list[int]] = {}
    for index, identity in enumerate(identities):
        seen.setdefault(json.dumps(identity, sort_keys=True, default=str), []).append(index)
    for indices in seen.values():
        if len(indices) > 1:
            fix = f"remove it or the one at {path_text((*path, indices[0]))}"
            yield worded(DUPLICATE, path_text((*path, indices[1])), shown(identities[indices[1]]), fix)
