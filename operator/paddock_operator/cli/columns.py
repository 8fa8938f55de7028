"""The columns of `paddock get`: the printer columns of the CRDs, so that they are those of kubectl.

Called by `objects`. Knows the two forms of JSONPath that printer columns use: `.a.b` and `.list[?(@.key=="value")].c`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paddock_operator.cli.text import age

_STEP = re.compile(r"\.([A-Za-z]+)(?:\[\?\(@\.([A-Za-z]+)==\"([^\"]*)\"\)\])?")


@dataclass(frozen=True, slots=True)
class Column:
    """`wide` columns show only with -o wide; `kind` is the CRD's type (string, integer, date)."""

    title: str
    path: str
    kind: str
    wide: bool

    def cell(self, document: Mapping[str, Any], now: datetime) -> str:
        """What stands in this column for an object."""
        value = lookup(document, self.path)
        if value is None:
            return ""
        return age(str(value), now) if self.kind == "date" else str(value)


def columns(crd: Mapping[str, Any]) -> list[Column]:
    """The columns that a CRD declares, in order."""
    declared: Sequence[Mapping[str, Any]] = crd["spec"]["versions"][0].get("additionalPrinterColumns") or ()
    return [Column(one["name"].upper(), one["jsonPath"], one["type"], bool(one.get("priority"))) for one in declared]


def lookup(document: Any, path: str) -> Any:
    """The value at a path, None when it is absent. Raises ValueError for a path of another form."""
    if "".join(found.group(0) for found in _STEP.finditer(path)) != path:
        raise ValueError(f"{path} is not a path that this program knows")
    for name, key, wanted in _STEP.findall(path):
        document = document.get(name) if isinstance(document, Mapping) else None
        if key:
            entries = document if isinstance(document, list) else []
            document = next((entry for entry in entries if entry.get(key) == wanted), None)
    return document
