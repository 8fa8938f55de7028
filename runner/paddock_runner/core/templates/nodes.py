"""What a Go template is made of once parsed. Made by `parser`. Pure data; `line` counts from 1 everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Literally:
    """A string, number, character, true, false or nil as it is written."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Access:
    """A start and the fields after it: `.A.B` (start "."), `$x.A` (start "$x"), `(…).A`, or a function's name."""

    start: str | Pipeline
    fields: tuple[str, ...] = ()


Operand = Literally | Access


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands joined by `|`; `declares` with `:=`, otherwise assigns to `variables`."""

    line: int
    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is written as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """`{{pipeline}}`."""

    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range` with its two bodies; `otherwise` None without an else."""

    kind: Literal["if", "with", "range"]
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...] | None


@dataclass(frozen=True, slots=True)
class Call:
    """`{{template "name" pipeline}}`."""

    line: int
    name: str
    pipeline: Pipeline | None


@dataclass(frozen=True, slots=True)
class Jump:
    """`{{break}}` or `{{continue}}`."""

    kind: Literal["break", "continue"]


Node = Text | Action | Branch | Call | Jump


@dataclass(frozen=True, slots=True)
class Parsed:
    """The template's own nodes and those of its `define`s and `block`s."""

    nodes: tuple[Node, ...]
    defined: dict[str, tuple[Node, ...]] = field(default_factory=dict)
