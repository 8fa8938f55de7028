"""`paddock serve-blobs`: the models of this cache for other machines, read-only, by the registry's protocol."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from types import FrameType

from paddock_operator.cli.child import Call, Reply, run
from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.store import is_json, nothing
from paddock_operator.executors.local.home import Home


def serve_blobs(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes; transfers that run get a few seconds to end."""
    home = home_of(arguments)
    if not home.models.is_dir():
        raise CliError(f"{home.models}: there is no such folder of models", BAD_USAGE)
    words = ["--listen", arguments.listen, *(["--tls", arguments.tls] if arguments.tls else [])]
    call = Call(home, "serve-blobs", tuple(words), raw=is_json(arguments), logs_out=True)
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        return run(call, nothing if call.raw else lambda reply: _tell(reply, home, arguments))
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell(reply: Reply, home: Home, arguments: argparse.Namespace) -> None:
    if reply.get("event") == "listening":
        scheme = "https" if arguments.tls else "http"
        sys.stdout.write(f"serving {home.models} at {scheme}://{reply['address']}, read-only, to everybody there\n")
        sys.stdout.flush()
