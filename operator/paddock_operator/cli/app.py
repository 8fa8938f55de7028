"""Parse the command line, run one verb, turn failures into one line and an exit code. Called by the entry point."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from paddock_operator.cli.errors import FAILED, INTERRUPTED, CliError
from paddock_operator.cli.parser import build

Verb = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `paddock` with these arguments; the exit code. Raises SystemExit for usage errors, as argparse does."""
    return _run(build().parse_args(argv), cluster=False)


def kubectl_main(argv: Sequence[str] | None = None) -> int:
    """The same as a plug-in of kubectl (`kubectl paddock …`): objects and keys are always those of a cluster."""
    return _run(build("kubectl paddock").parse_args(argv), cluster=True)


def _run(arguments: argparse.Namespace, cluster: bool) -> int:
    arguments.cluster = cluster
    try:
        code = _verb(arguments.verb)(arguments)
        sys.stdout.flush()
        return code
    except CliError as error:
        return _fail(str(error), error.code)
    except BrokenPipeError:
        # The reader (`| head`) has what it wants; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", FAILED)


def _verb(name: str) -> Verb:
    module, _, function = name.partition(":")
    found: Verb = getattr(importlib.import_module(f"paddock_operator.cli.{module}"), function)
    return found


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"paddock: {message}\n")
    return code
