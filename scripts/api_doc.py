"""The page docs/reference/api.md, made from the CRDs. Called by docs.py; a test compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "api.md"
Schema = Mapping[str, Any]

INTRODUCTION = """# Model and Endpoint (paddock.dev/v1alpha1)

Made from `crds/` by `make docs`; do not edit. `kubectl explain model.spec --recursive` says the same on a cluster.
A field in **bold** is required where its parent stands. The schemas set no defaults: what an absent field means is
decided by the operator, said in the description, and shown in `status.effective`. Maps and lists have `{}` and `[]`
behind their name. Rules are CEL expressions; a manifest that breaks one is refused with the words given here.

Every section of `spec` (each object directly below it, a `source`, a `projector`) has one owner: who applies it
server-side replaces it whole, so that a union switches cleanly and `{}` empties it. Entries of lists with a key
(`models`, `adapters`) may have several owners, and `replicas` is a field of its own, for autoscalers.

## The same words on a cluster and on one machine

`paddock up` refuses what an API server refuses, and prints the same line for it with the way to cure it behind:
`spec.replicas: Invalid value: 65: spec.replicas in body should be less than or equal to 64; lower it`.
A test sends a table of more than 200 manifests to both. What differs, and why:

- An API server stops at unknown fields and at metadata that it cannot decode; `paddock up` goes on and names everything
  that is wrong (at most 20 problems, by path; a message of more than 4096 characters is cut).
- A wrong `kind`, `apiVersion` or namespace has no common message: there it depends on the address of the request.
- `spec.replicas` is looked at twice by an API server, by the schema and by the scale subresource; `paddock up` says
  it once.
- Whole numbers may be written as `2.0` in YAML; kubectl sends them as integers. A client that sends `2.0` itself is
  refused where a rule reads the number.
- A field that is `null` counts as absent, as `kubectl apply` has it; `kubectl apply --server-side` refuses it.
- Of `metadata`, `paddock up` looks at names, labels, annotations and types; not into fields that a server fills in.
- Secrets of type `paddock.dev/api-key` are opaque to an API server; `paddock up` looks into them.
"""

BOUNDS = (
    ("minimum", "≥ {}"), ("maximum", "≤ {}"), ("minLength", "≥ {} characters"), ("maxLength", "≤ {} characters"),
    ("minItems", "≥ {} entries"), ("maxItems", "≤ {} entries"), ("minProperties", "≥ {} fields"),
    ("maxProperties", "≤ {} fields"), ("format", "{}"), ("pattern", "`{}`"),
)  # fmt: skip


def page() -> str:
    """The whole page."""
    crds = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "crds").glob("*.yaml")]
    crds.sort(key=lambda crd: str(crd["spec"]["names"]["kind"]), reverse=True)
    return "\n".join([INTRODUCTION, *(section(crd) for crd in crds)])


def section(crd: Mapping[str, Any]) -> str:
    """One kind: its names, columns, fields and rules."""
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    columns = version["additionalPrinterColumns"]
    lines = [f"## {names['kind']}", "", schema["description"], ""]
    short = ", ".join(f"`{name}`" for name in (names["plural"], *names["shortNames"]))
    lines += [
        f"kubectl knows it as {short}; `{'`, `'.join(names['categories'])}` list it too. Subresources: status, scale.",
        "",
    ]
    lines += ["| column | | meaning |", "|---|---|---|", *map(_column, columns), ""]
    for part in ("spec", "status"):
        node = schema["properties"][part]
        lines += [f"### {names['kind']}.{part}", "", node["description"], "", *_table(node, part), *_rules(node, part)]
    return "\n".join(lines)


def _column(column: Mapping[str, Any]) -> str:
    return f"| {column['name'].upper()} | {'wide' if column.get('priority') else ''} | {column['description']} |"


def _table(schema: Schema, path: str) -> list[str]:
    return ["| field | type | bounds | |", "|---|---|---|---|", *(_row(*found) for found in fields(schema, path)), ""]


def fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """(path, node, required) of every field below a node, in the order of the CRD; entries of lists as `path[]`."""
    for name, node in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        yield below, node, name in schema.get("required", ())
        yield from fields(node, below)
        yield from _entries(node, below)


def _entries(node: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    for key, brackets in (("items", "[]"), ("additionalProperties", "{}")):
        if key in node:
            below = path + brackets
            if "properties" not in node[key]:
                yield below, node[key], False
            yield from fields(node[key], below)


def _row(path: str, node: Schema, required: bool) -> str:
    name = f"**`{path}`**" if required else f"`{path}`"
    return f"| {name} | {_type(node)} | {_bounds(node)} | {_escaped(node['description'])} |"


def _type(node: Schema) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    kind = {"array": node.get("x-kubernetes-list-type", "list"), "object": "object"}.get(node["type"], node["type"])
    if kind == "map":
        return f"list, one per {', '.join(node['x-kubernetes-list-map-keys'])}"
    return {"atomic": "list", "set": "list without repeats"}.get(kind, kind)


def _bounds(node: Schema) -> str:
    found = [words.format(node[key]) for key, words in BOUNDS if key in node and node[key] not in ("int32", "int64")]
    choices = [f"one of {', '.join(f'`{choice}`' for choice in node['enum'])}"] if "enum" in node else []
    return _escaped(", ".join([*choices, *found]))


def _rules(schema: Schema, path: str) -> list[str]:
    nodes = [(path, schema), *((below, node) for below, node, _ in _all(schema, path))]
    found = [(where, rule) for where, node in nodes for rule in node.get("x-kubernetes-validations", ())]
    lines = [f"- {rule['message']}\n  `{where}{rule.get('fieldPath', '')}`: `{rule['rule']}`" for where, rule in found]
    return ["Rules:", "", *lines, ""] if lines else []


def _all(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    for where, node, required in fields(schema, path):
        yield where, node, required
        if "properties" in node.get("items", {}):
            yield f"{where}[]", node["items"], False


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")
