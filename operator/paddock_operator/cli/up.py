"""`paddock up`."""

from __future__ import annotations

import argparse

from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.core.clock import duration_seconds
from paddock_operator.executors.local import listen
from paddock_operator.executors.local.up import Options, run


def up(arguments: argparse.Namespace) -> int:
    """Serve the manifests until a signal; exit codes in docs/reference/cli.md."""
    try:
        address = listen.parse(arguments.listen)
    except listen.ListenError as error:
        raise CliError(f"--listen: {error}", BAD_USAGE) from None
    try:
        seconds = duration_seconds(arguments.check_sources)
    except ValueError as error:
        raise CliError(f"--check-sources: {error}", BAD_USAGE) from None
    return run(Options(tuple(arguments.file), address, home_of(arguments), arguments.output, seconds))
