"""`paddock-runner gateway`: the front door of one Endpoint. Called by `paddock_runner.__main__`.

Exit codes: 0 stopped by a signal, 2 bad usage or a bad configuration at start, 4 the address is in use, 130 ended by a
second signal.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from paddock_runner import logs
from paddock_runner.gateway.app import Gateway
from paddock_runner.gateway.cluster.access import in_cluster
from paddock_runner.gateway.cluster.link import Place
from paddock_runner.httpd import EXIT_USAGE, serve
from paddock_runner.parent import die_with_parent
from paddock_runner.tls import Certificates

LINGER_SECONDS = 5.0
"""On a cluster, clients on open connections are served this long after the first signal and told to close."""

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway until a signal ends it; returns the exit code."""
    options = _parser().parse_args(arguments)
    die_with_parent()
    logs.setup("gateway")
    try:
        place = _place(options.secret, os.environ) if options.secret else None
        certificates = Certificates(options.tls) if options.tls else None
    except (OSError, ValueError) as error:
        sys.stderr.write(f"paddock-runner gateway: {error}\n")
        return EXIT_USAGE
    try:
        gateway = Gateway(options.config, place=place, linger_seconds=LINGER_SECONDS if place else 0.0)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{options.config}: {error}\n")
        return EXIT_USAGE
    return serve(
        gateway,
        options.listen,
        drain_seconds=lambda: gateway.file.value.config.drain_seconds,
        on_drain=gateway.drain,
        on_listening=gateway.listening,
        linger_seconds=gateway.linger_seconds,
        certificates=certificates,
    )


def _place(secret: str, environment: Mapping[str, str]) -> Place:
    namespace, _, name = secret.partition("/")
    if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
        raise ValueError(f"--secret {secret}: expected NAMESPACE/NAME of the Endpoint's Secret")
    pod = environment.get("POD_NAME", "")
    if not _NAME.fullmatch(pod):
        raise ValueError("--secret needs the pod's name in the environment variable POD_NAME")
    return Place(in_cluster(environment), namespace, name, pod)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock-runner gateway", description="Serve one Endpoint.")
    parser.add_argument(
        "--config", type=Path, required=True, help="the gateway's configuration file (re-read on change)"
    )
    parser.add_argument(
        "--secret",
        metavar="NAMESPACE/NAME",
        help="in a cluster: watch this Secret (its gateway.json wins over --config) and the EndpointSlices beside it",
    )
    parser.add_argument(
        "--tls", type=Path, metavar="DIR", help="serve HTTPS with DIR/tls.crt and DIR/tls.key (re-read on change)"
    )
    parser.add_argument("--listen", default="127.0.0.1:11434", help="HOST:PORT, [IPV6]:PORT or fd:N; port 0 is any")
    return parser


if __name__ == "__main__":
    sys.exit(main())
