"""`paddock-runner serve-blobs`: a read-only mirror of a model folder that speaks the registry protocol.

Called by `paddock_runner.__main__`. Exit codes: 0 stopped by a signal, 2 bad usage, 4 the address is in use, 130 ended
by a second signal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paddock_runner import logs
from paddock_runner.httpd import EXIT_USAGE, serve
from paddock_runner.parent import die_with_parent
from paddock_runner.registry.app import mirror_app
from paddock_runner.store.errors import StoreError
from paddock_runner.store.store import Store
from paddock_runner.tls import Certificates

DRAIN_SECONDS = 10.0
"""Transfers that run when the program is asked to end may go on for this long; clients resume elsewhere."""


def main(argv: Sequence[str]) -> int:
    """Serve until a signal ends it; returns the exit code."""
    arguments = _parser().parse_args(argv)
    die_with_parent()
    logs.setup("serve-blobs")
    try:
        if not arguments.models.is_dir():
            return _unusable(f"--models {arguments.models}: there is no such folder")
        app = mirror_app(Store(arguments.models, read_only=True))
        certificates = Certificates(arguments.tls) if arguments.tls else None
    except (OSError, StoreError) as error:
        return _unusable(str(error))
    return serve(
        app,
        arguments.listen,
        drain_seconds=lambda: DRAIN_SECONDS,
        on_drain=lambda: None,
        certificates=certificates,
    )


def _unusable(message: str) -> int:
    sys.stderr.write(f"paddock-runner serve-blobs: {message}\n")
    return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paddock-runner serve-blobs",
        description="Serve the models of a folder, read-only and to everybody who reaches the address.",
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--listen", default="127.0.0.1:11435", help="HOST:PORT, [IPV6]:PORT or fd:N; port 0 is any")
    parser.add_argument(
        "--tls", type=Path, metavar="DIR", help="serve HTTPS with DIR/tls.crt and DIR/tls.key (re-read on change)"
    )
    return parser
