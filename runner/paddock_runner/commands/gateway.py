"""`paddock-runner gateway`: the front door of one Endpoint. Called by `paddock_runner.__main__`.

Exit codes: 0 stopped by a signal, 2 bad usage or a bad configuration at start, 4 the address is in use, 130 ended by a
second signal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paddock_runner import logs
from paddock_runner.gateway.app import Gateway
from paddock_runner.httpd import EXIT_USAGE, serve
from paddock_runner.parent import die_with_parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway until a signal ends it; returns the exit code."""
    options = _parser().parse_args(arguments)
    die_with_parent()
    logs.setup("gateway")
    try:
        gateway = Gateway(options.config)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{options.config}: {error}\n")
        return EXIT_USAGE
    return serve(
        gateway,
        options.listen,
        drain_seconds=lambda: gateway.file.value.config.drain_seconds,
        on_drain=gateway.drain,
        on_listening=gateway.listening,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock-runner gateway", description="Serve one Endpoint.")
    parser.add_argument(
        "--config", type=Path, required=True, help="the gateway's configuration file (re-read on change)"
    )
    parser.add_argument("--listen", default="127.0.0.1:11434", help="HOST:PORT, [IPV6]:PORT or fd:N; port 0 is any")
    return parser


if __name__ == "__main__":
    sys.exit(main())
