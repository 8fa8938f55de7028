"""Which fields of the two objects one machine honours, ignores or refuses: the table, and the checks made from it.

Called by `paddock up` at start and at every change (`local_problems`), by the plans (`ignored_fields`, shown in
status.effective.ignored) and by `make docs` (`markdown` is docs/reference/local-fields.md). An entry for a section
covers everything below it; tests/crds proves that every field of the CRDs has exactly one entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paddock_operator.core.local_table import ENDPOINT_ROWS, MODEL_ROWS, Row
from paddock_operator.core.problems import Problem

Effect = Literal["honoured", "ignored", "refused"]

KINDS: Mapping[str, Sequence[Row]] = {"Model": MODEL_ROWS, "Endpoint": ENDPOINT_ROWS}


@dataclass(frozen=True, slots=True)
class Found:
    """A field of a document together with its row: `path` has real indices (`spec.models[0].aliases`)."""

    path: str
    row: Row
    value: Any


def local_problems(document: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What one machine refuses in a checked document; empty for kinds without a table."""
    rows = KINDS.get(str(document.get("kind")), ())
    found = _acting(document, rows, "refused")
    return tuple(Problem(item.path, f"not possible on one machine: {item.row.note}") for item in found)


def ignored_fields(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """Paths of the fields of a spec (as a manifest has it) that have no effect on one machine, sorted."""
    return sorted({item.path for item in _acting({"spec": spec}, KINDS[kind], "ignored")})


def _acting(document: Mapping[str, Any], rows: Sequence[Row], effect: Effect) -> Iterator[Found]:
    for row in rows:
        if row.effect == effect:
            yield from (item for item in _present(document, row) if row.when is None or row.when(item.value))


def _present(document: Mapping[str, Any], row: Row) -> Iterator[Found]:
    for path, value in _lookup(document, row.path.split("."), ""):
        yield Found(path, row, value)


def _lookup(value: Any, parts: Sequence[str], path: str) -> Iterator[tuple[str, Any]]:
    if not parts:
        yield path, value
        return
    name = parts[0].removesuffix("[]")
    if not isinstance(value, Mapping) or value.get(name) is None:
        return
    below = f"{path}.{name}" if path else name
    if not parts[0].endswith("[]"):
        yield from _lookup(value[name], parts[1:], below)
        return
    for index, item in enumerate(value[name]):
        yield from _lookup(item, parts[1:], f"{below}[{index}]")


def covers(row_path: str, field_path: str) -> bool:
    """Whether a row speaks of a field: the same path or a section above it."""
    return field_path == row_path or field_path.startswith((f"{row_path}.", f"{row_path}[]"))


def markdown() -> str:
    """The published table."""
    return _HEAD + "\n".join(_section(kind, rows) for kind, rows in KINDS.items())


_HEAD = """# Fields on one machine

`paddock up` honours the manifests of a cluster. This table says what each field of `spec` does there; a section stands
for all fields below it. It is generated from `paddock_operator/core/local_table.py`; a test keeps it equal to the CRDs.

- **honoured**: it acts as on a cluster (a note says how, where that is not obvious).
- **ignored**: it has no effect; `status.effective.ignored` names it.
- **refused**: `paddock up` reports an error, because serving without it would not be what was asked for.

"""


def _section(kind: str, rows: Sequence[Row]) -> str:
    lines = [f"## {kind}", "", "| field | on one machine | note |", "|---|---|---|"]
    return "\n".join([*lines, *(_line(row) for row in rows), ""])


def _line(row: Row) -> str:
    effect = f"{row.effect} if {row.condition}, else honoured" if row.when else row.effect
    return f"| `{row.path}` | {effect} | {row.note} |"
