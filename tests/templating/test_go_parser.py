"""Go templates parse as Go's own text/template parses them: the same trees, and refusals where Go refuses."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from paddock_runner.core.templates import nodes
from paddock_runner.core.templates.lexer import MAX_TEMPLATE, TemplateSyntaxError
from paddock_runner.core.templates.parser import parse

PROGRAM = Path(__file__).parent / "go"
FUNCTIONS = frozenset({"and", "or", "not", "eq", "ne", "lt", "le", "len", "index", "slice", "print", "printf", "html"})
PIECES = [
    *("{{", "}}", "{{- ", " -}}", "{{", "}}", " ", "\n", "text ", "if ", "else ", "else if ", "end", "range ", "with "),
    *(
        'define "a"',
        'template "a" ',
        'block "a" ',
        "break",
        "continue",
        ".",
        ".A",
        ".B.C",
        "$",
        "$x",
        "$x := ",
        "$x = ",
    ),
    *("$i, $x := ", "| ", "(", ")", "len ", "eq ", "nope ", '"s"', "`r`", "'c'", "1", "-2.5", "nil", "true", "/* c */"),
]
SHAPES = [
    "{{-  /* two spaces */ -}}",
    "{{ if .System }}<|s|>{{ .System }}{{ end }}{{- range $i, $_ := .Messages }}{{ .Content }}{{ end }}",
    "{{- $last := eq (len (slice .Messages $i)) 1 -}}",
    "{{- range $i, $_ := .M }}\n{{- $last := eq (len (slice $.M $i)) 1 }}{{ if and $last . }}x{{ end }}{{ end }}",
    '{{ if .A }}a{{ else if eq .B "b" }}b{{ else }}c{{ end }}{{ with .C }}{{ . }}{{ else with .D }}d{{ end }}',
    '{{ define "t" }}{{ .X }}{{ end }}{{ template "t" . }}{{ block "u" .Y }}{{ . }}{{ end }}',
    "a  {{- /* c */ -}}  b {{ (index .A 0).B.C | printf \"%q\" }} {{ range . }}{{ break }}{{ end }}",
]  # fmt: skip


def written(found: tuple[nodes.Node, ...]) -> str:
    return "".join(node_text(node) for node in found)


def node_text(node: nodes.Node) -> str:
    match node:
        case nodes.Text(text):
            return text
        case nodes.Action(pipeline):
            return "{{" + pipeline_text(pipeline) + "}}"
        case nodes.Jump(kind):
            return "{{" + kind + "}}"
        case nodes.Call(_, name, pipeline):
            quoted = json.dumps(name[1:-1])
            return "{{template " + quoted + (" " + pipeline_text(pipeline) if pipeline else "") + "}}"
        case nodes.Branch(kind, pipeline, body, otherwise):
            tail = "" if otherwise is None else "{{else}}" + written(otherwise)
            return "{{" + kind + " " + pipeline_text(pipeline) + "}}" + written(body) + tail + "{{end}}"


def pipeline_text(pipeline: nodes.Pipeline) -> str:
    mark = " := " if pipeline.declares else " = "
    head = ", ".join(pipeline.variables) + mark if pipeline.variables else ""
    return head + " | ".join(" ".join(operand_text(operand) for operand in command) for command in pipeline.commands)


def operand_text(operand: nodes.Operand) -> str:
    if isinstance(operand, nodes.Literally):
        return operand.text
    tail = "".join("." + field for field in operand.fields)
    if isinstance(operand.start, nodes.Pipeline):
        return "(" + pipeline_text(operand.start) + ")" + tail
    return tail if operand.start == "." and tail else operand.start + tail


def ours(source: str) -> str | None:
    try:
        return written(parse(source, FUNCTIONS).nodes)
    except TemplateSyntaxError:
        return None


def generated(count: int) -> list[str]:
    chosen = random.Random(7)
    shaken = []
    for _ in range(count):
        shape = chosen.choice(SHAPES)
        at = chosen.randrange(len(shape))
        shaken.append(shape[:at] + chosen.choice(PIECES) + shape[at + chosen.randrange(4) :])
    return shaken + ["".join(chosen.choices(PIECES, k=chosen.randint(2, 9))) for _ in range(count)]


def test_trees_and_refusals_are_those_of_go(tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs the go tool on PATH: the reference is Go's own text/template")
    sources = [*SHAPES, *generated(1500)]
    done = subprocess.run(
        [go, "run", "."], cwd=PROGRAM, input=json.dumps(sources), capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout)
    different = [(s, t, ours(s)) for s, t in zip(sources, theirs, strict=True) if t != ours(s)]
    assert not different, f"{len(different)}: {different[:8]}"
    assert sum(tree is not None for tree in theirs) > 300


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("a\nb{{ if .A }}\nc", 2, "expected {{end}}"),
        ("a\n{{ nope 1 }}", 2, "function nope is not defined"),
        ("\n\n{{ .A", 3, "expected }}"),
        ("{{ end }}", 1, "unexpected {{end}}"),
        ("{{ $x }}", 1, "undefined variable $x"),
        ("{{ break }}", 1, "outside {{range}}"),
        ("{{ " + "(" * 5000 + "1 }}", 1, "levels of nesting"),
        ("{{ if . }}" * 5000, 1, "levels of nesting"),
        ("x" * (MAX_TEMPLATE + 1), 1, "the limit is"),
    ],
)
def test_a_refusal_names_the_line_and_what_was_expected(source: str, line: int, message: str) -> None:
    with pytest.raises(TemplateSyntaxError, match=rf"^line {line}: ") as refusal:
        parse(source, FUNCTIONS)
    assert message in str(refusal.value)
