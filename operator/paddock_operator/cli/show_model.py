"""`paddock show NAME`: what a model of the cache is; with `--verbose` also its files and what keeps it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from paddock_operator.cli.child import Call, Reply, one
from paddock_operator.cli.home import home_of
from paddock_operator.cli.store import is_json, short
from paddock_operator.cli.text import size
from paddock_operator.executors.local.plain import safe


def show(arguments: argparse.Namespace) -> int:
    """Print what a model is: facts, abilities, parameters, system text, license."""
    words = (*(["--verbose"] if arguments.verbose else []), "--", arguments.name)
    call = Call(home_of(arguments), "store show", words, raw=is_json(arguments))
    reply = one(call)
    if call.raw:
        return 0
    _section("Model", _facts(reply))
    _section("Capabilities", [str(item) for item in reply.get("capabilities") or []])
    _section("Parameters", str(reply.get("parameters") or "").splitlines())
    _section("System", str(reply.get("system") or "").splitlines())
    _section("License", str(reply.get("license") or "").splitlines()[:2])
    if arguments.verbose:
        _section("Manifest", _manifest(reply))
        _section("Files", [line for blob in reply["blobs"] for line in _file(blob)])
        _section("Metadata", [f"{name:<40}{_value(value)}" for name, value in reply["model_info"].items()])
    return 0


def _facts(reply: Reply) -> list[str]:
    details, info = reply.get("details") or {}, reply.get("model_info") or {}
    architecture = str(info.get("general.architecture") or details.get("family") or "")
    facts = [
        ("architecture", architecture),
        ("parameters", str(details.get("parameter_size", ""))),
        ("context length", str(info.get(f"{architecture}.context_length", ""))),
        ("embedding length", str(info.get(f"{architecture}.embedding_length", ""))),
        ("quantization", str(details.get("quantization_level", ""))),
    ]
    return _pairs((name, value) for name, value in facts if value)


def _manifest(reply: Reply) -> list[str]:
    kept = "its name, and a pin: a Model was served from it" if reply["pinned"] else "its name"
    return _pairs([("digest", f"sha256:{reply['digest']}"), ("size", size(reply["size"])), ("kept by", kept)])


def _file(blob: dict[str, Any]) -> list[str]:
    head = f"{blob['role']:<20}{short(blob['digest'])}    {size(blob['size'])}"
    if blob.get("missing"):
        return [f"{head}    missing"]
    state = "verified" if blob["verified"] else "not verified since its file changed"
    return [f"{head}    {state}", f"{'':<20}{blob['path']}"]


def _value(value: object) -> str:
    # Long arrays are left out by the runner.
    return "…" if value == [] else str(value)[:80]


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name:<20}{value}" for name, value in pairs]


def _section(title: str, lines: list[str]) -> None:
    if lines:
        sys.stdout.write(f"  {title}\n" + "".join(f"    {safe(line)}\n" for line in lines) + "\n")
