"""Which fields of the two objects are honoured, ignored or refused, on a cluster and on one machine.

Called by `paddock up` at start and at every change (`local_problems`), by the plans of a cluster (`unsupported`), by
all plans (`ignored_fields`, shown in status.effective.ignored) and by `make docs` (`markdown` is
docs/reference/fields.md). A row of a section covers everything below it; tests/crds proves that every field of the CRDs
has exactly one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paddock_operator.core.field_table import ENDPOINT_ROWS, MODEL_ROWS, Effect, Row
from paddock_operator.core.problems import Problem

Platform = Literal["local", "cluster"]

KINDS: Mapping[str, Sequence[Row]] = {"Model": MODEL_ROWS, "Endpoint": ENDPOINT_ROWS}


@dataclass(frozen=True, slots=True)
class Found:
    """A field of a spec together with its effect: `path` has real indices (`spec.models[0].aliases`)."""

    path: str
    effect: Effect


def effect_on(row: Row, platform: Platform) -> Effect:
    """The effect of a row on a platform."""
    return row.cluster if platform == "cluster" else row.local


def local_problems(document: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What one machine refuses in a checked document; empty for kinds without a table."""
    found = _acting(str(document.get("kind")), document.get("spec") or {}, "local", "refused")
    return tuple(Problem(item.path, f"not possible on one machine: {item.effect.note}") for item in found)


def unsupported(kind: str, spec: Mapping[str, Any]) -> str:
    """What a cluster refuses in a spec (as a manifest has it), each field with its fix; empty if it is fine."""
    found = _acting(kind, spec, "cluster", "refused")
    return "; ".join(f"{item.path}: {item.effect.note}" for item in found)


def ignored_fields(kind: str, spec: Mapping[str, Any], platform: Platform) -> list[str]:
    """Paths of the fields of a spec (as a manifest has it) that have no effect on a platform, sorted."""
    return sorted({item.path for item in _acting(kind, spec, platform, "ignored")})


def _acting(kind: str, spec: Mapping[str, Any], platform: Platform, wanted: str) -> Iterator[Found]:
    for row in KINDS.get(kind, ()):
        effect = effect_on(row, platform)
        if effect.kind == wanted:
            for path, value in _lookup({"spec": spec}, row.path.split("."), ""):
                if effect.when is None or effect.when(value):
                    yield Found(path, effect)


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


_HEAD = """# What each field does

The same manifests serve on a cluster and on one machine (`paddock up`). This table says what each field of `spec` does
on each; a section stands for all fields below it. It is generated from `paddock_operator/core/field_table.py`; a test
keeps it equal to the CRDs.

- **honoured**: it acts as described in [api.md](api.md); a note says how, where that is not obvious.
- **ignored**: it has no effect, and answers are the same; `status.effective.ignored` names it.
- **refused**: serving without it would not be what was asked for. On a cluster the object is not Ready and Stalled,
  with the reason `Unsupported` and the words below; a Model then has no pull and no runner. `paddock up` reports an
  error.

"""


def _section(kind: str, rows: Sequence[Row]) -> str:
    lines = [f"## {kind}", "", "| field | on a cluster | on one machine |", "|---|---|---|"]
    return "\n".join([*lines, *(_line(row) for row in rows), ""])


def _line(row: Row) -> str:
    same = row.cluster == row.local and row.local.note
    return f"| `{row.path}` | {_cell(row.cluster)} | {'the same' if same else _cell(row.local)} |"


def _cell(effect: Effect) -> str:
    words = f"{effect.kind} if {effect.condition}, else honoured" if effect.when else effect.kind
    return f"{words}: {effect.note}" if effect.note else words
