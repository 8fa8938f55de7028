"""`paddock-runner COMMAND …`: each command is a module of `commands`, imported only when it is asked for.

So a puller never imports an engine, and a store verb starts in the time that its own imports take.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

COMMANDS = {
    "pull": "fetch a model into the cache, verified",
    "estimate": "say how much memory a model needs, from its header alone",
    "convert": "quantize a model in the cache",
    "collect": "remove what no live digest and no name needs from the cache",
    "store": "create, list, show, copy, remove and verify models in the cache",
    "import-ollama": "take over the models of another model folder by hard links",
    "export": "write models of the cache as one tar file, for machines without a network",
    "import": "bring the models of such a file into the cache, verified",
    "push": "send a model to a registry",
    "serve": "serve one model over HTTP",
    "serve-blobs": "serve the models of a folder to other machines, read-only",
    "gateway": "serve an Endpoint: keys, routes, limits",
}
# Commands that are not the `main` of the module of their name.
ENTRIES = {"export": ("bundle", "export_main"), "import": ("bundle", "import_main")}
EXIT_USAGE = 2
EXIT_TERMINATED = 128 + signal.SIGTERM


def usage() -> str:
    """The text of --help."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: paddock-runner COMMAND …", "", *lines, "", "paddock-runner COMMAND --help says more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, 2 for an unknown one."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        sys.stderr.write(usage() + "\n")
        return EXIT_USAGE
    if os.getpid() == 1:
        # The kernel ignores what process 1 does not handle; imports take a while, and then each command has its own.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(EXIT_TERMINATED))
    module_name, function = ENTRIES.get(arguments[0], (arguments[0].replace("-", "_"), "main"))
    module = importlib.import_module(f"paddock_runner.commands.{module_name}")
    return int(getattr(module, function)(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
