"""`paddock fit` and `paddock show --memory`: what models of the cache need, beside what this machine has free.

The numbers come from `paddock-runner estimate`, which reads headers only; docs/memory.md says what they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from paddock_operator.cli.errors import CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.store import names_of_cache
from paddock_operator.cli.text import size, table
from paddock_operator.executors.local.home import Home
from paddock_operator.executors.local.machine import free_memory
from paddock_operator.executors.local.plain import safe

DOES_NOT_FIT = 1
SECONDS = 120
_PARTS = (
    ("weights", "weights, adapters too"),
    ("kv", "keys and values"),
    ("state", "recurrent state"),
    ("compute", "tensors of a step"),
    ("output", "output rows"),
    ("projector", "projector"),
    ("process", "programs"),
    ("total", "total"),
)

Estimate = dict[str, Any]


def fit(arguments: argparse.Namespace) -> int:
    """Print a line for each model (default: all of the cache); exit code 1 if one does not fit."""
    home, free = home_of(arguments), free_memory()
    names = arguments.names or names_of_cache(home)
    found = [_judged(_estimate(home, name, arguments), free) for name in names]
    if arguments.output == "json":
        _dump({"free": free, "models": found})
    else:
        table(
            ("NAME", "CONTEXT", "SLOTS", "WEIGHTS", "CACHE", "STEP", "TOTAL", "FITS"),
            [_row(one) for one in found],
        )
        sys.stdout.write(f"free on this machine: {size(free) if free else 'not known'}\n")
    return DOES_NOT_FIT if any(one["fits"] is False for one in found) else 0


def show(arguments: argparse.Namespace) -> int:
    """Print the parts of one model's estimate."""
    free = free_memory()
    found = _judged(_estimate(home_of(arguments), arguments.name, arguments), free)
    if arguments.output == "json":
        _dump({"free": free, **found})
        return 0
    engine = found["engine"]
    sys.stdout.write(f"  Memory of {safe(str(found['name']))}\n")
    sys.stdout.write(f"    {engine['slots']} sequences with {engine['context']} tokens of context\n")
    for name, words in _PARTS:
        if found[name]:
            sys.stdout.write(f"    {words:<24}{size(found[name])}\n")
    sys.stdout.write(f"    {'free on this machine':<24}{size(free) if free else 'not known'}\n")
    return 0


def _judged(found: Estimate, free: int) -> Estimate:
    return {**found, "fits": found["total"] <= free if free else None}


def _row(one: Estimate) -> tuple[str, ...]:
    engine = one["engine"]
    sizes = (one["weights"] + one["projector"], one["kv"] + one["state"], one["compute"] + one["output"], one["total"])
    words = {True: "yes", False: "no", None: "not known"}
    return (str(one["name"]), str(engine["context"]), str(engine["slots"]), *map(size, sizes), words[one["fits"]])


def _dump(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _estimate(home: Home, name: str, arguments: argparse.Namespace) -> Estimate:
    """One model's estimate. Raises CliError with the child's own message."""
    options = {"--context": arguments.context, "--slots": arguments.slots, "--kv-type": arguments.kv_type}
    given = [text for option, value in options.items() if value is not None for text in (option, str(value))]
    argv = [sys.executable, "-m", "paddock_runner", "estimate", "--models", str(home.models), *given, "--", name]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise CliError(f"the estimate of {name} took longer than {SECONDS} s") from None
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with status {done.returncode}"]
        raise CliError(f"paddock-runner estimate: {safe(last[0])}") from None
    if "error" in found:
        raise CliError(str(found["error"]))
    return dict(found)
