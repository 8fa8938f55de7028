"""`paddock-runner push`: send a stored model to a registry, with Ollama's status words as JSON lines on stdout.

Called by `paddock_runner.__main__`, which the `paddock` command starts as a child. Exit codes: 0 pushed, 1 an error, 75
an error that may pass; before the last two, the last line is `{"error","reason"}`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from paddock_runner import logs
from paddock_runner.commands.events import say
from paddock_runner.core.digest import Digest
from paddock_runner.core.names import InvalidNameError, ModelName, Reference
from paddock_runner.core.oci_reference import InvalidReferenceError, OciReference
from paddock_runner.parent import die_with_parent
from paddock_runner.sources import push_oci, push_ollama
from paddock_runner.sources.addresses import HostRules
from paddock_runner.sources.auth import access_for
from paddock_runner.sources.network import Network
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import StoreError, from_os_error
from paddock_runner.store.store import Store

EXIT_FAILED = 1
EXIT_RETRY = 75
PROGRESS_SECONDS = 0.1
OCI = "oci:"
_PARTS_OF_A_NAME = 3


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    die_with_parent()
    logs.setup("push")
    try:
        asyncio.run(_push(arguments))
    except InvalidNameError as error:
        return _failed(str(error), "InvalidName")
    except (StoreError, OSError) as failure:
        typed = failure if isinstance(failure, StoreError) else from_os_error(failure, "using", arguments.models)
        return _failed(str(typed), typed.reason, typed.retryable)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock-runner push", description="Send a stored model to a registry.")
    parser.add_argument("name", help="the model in the folder")
    parser.add_argument(
        "target", nargs="?", help="where it goes if not to its own name: a name, or oci:HOST/REPOSITORY:TAG"
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--credentials", type=Path, metavar="DIR", help="a folder with the registry's credentials")
    parser.add_argument("--insecure", action="store_true", help="use plain HTTP")
    return parser


def _failed(message: str, reason: str, retryable: bool = False) -> int:
    say({"error": message, "reason": reason})
    return EXIT_RETRY if retryable else EXIT_FAILED


class Progress:
    """Prints Ollama's lines: each blob's first and last, and ten per second between. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._next = now()

    def status(self, text: str) -> None:
        say({"status": text})

    def __call__(self, digest: Digest, completed: int, total: int) -> None:
        if completed in (0, total) or self._now() >= self._next:
            self._next = self._now() + PROGRESS_SECONDS
            line = {"status": f"pushing {digest.short}", "digest": str(digest), "total": total}
            say({**line, "completed": completed})


async def _push(arguments: argparse.Namespace) -> None:
    name, store = ModelName.parse(arguments.name.removeprefix("http://")), Store(arguments.models)
    wanted, progress = arguments.target or arguments.name, Progress()
    if (reference := _artifact(wanted)) is not None:
        await _push_artifact(arguments, store, name, reference, progress)
        return
    target = Reference.parse(wanted)
    if arguments.insecure:
        target = replace(target, scheme="http")
    async with _transport(arguments, target.name.host, target.origin) as transport:
        await push_ollama.push(store, name, target, transport, progress)


def _artifact(wanted: str) -> str | None:
    """The reference of an OCI artifact: what is called one, or has more parts than a model's name."""
    if wanted.startswith(OCI):
        return wanted.removeprefix(OCI).removeprefix("//")
    parts = wanted.removeprefix("http://").removeprefix("https://").split("/")
    return wanted if len(parts) > _PARTS_OF_A_NAME else None


async def _push_artifact(
    arguments: argparse.Namespace, store: Store, name: ModelName, reference: str, progress: Progress
) -> None:
    if arguments.insecure:
        reference = "http://" + reference.removeprefix("http://").removeprefix("https://")
    try:
        target = OciReference.parse(reference)
    except InvalidReferenceError as error:
        raise InvalidNameError(f"the reference {error}") from None
    progress.status("retrieving manifest")
    async with _transport(arguments, target.host, target.origin) as transport:
        await push_oci.push(store, name, reference, transport, progress)
    progress.status("success")


def _transport(arguments: argparse.Namespace, host: str, origin: str) -> Transport:
    # What a mirror has says nothing about the registry that is pushed to.
    network = replace(Network.from_environment(os.environ), mirrors={})
    if arguments.insecure:
        # Who says so has listed the host by hand.
        network = replace(network, rules=HostRules(network.rules.listed | {host.lower()}))
    return Transport(network, access_for(arguments.credentials, origin, os.environ))
