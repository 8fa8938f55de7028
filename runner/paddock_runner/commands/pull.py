"""`paddock-runner pull`: resolve one Model's source to a verified, pinned manifest and report it as JSON lines.

Called by `paddock_runner.__main__`, which the executor starts as a child (or a Job). The request and the events are
described in docs/reference/contracts.md. Exit codes: 0 a result (with --termination-message: any verdict that another
attempt would not change), 1 an error, 75 an error that may pass, or SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from paddock_runner import logs
from paddock_runner.commands.check import check
from paddock_runner.commands.events import MAX_VERDICT_BYTES, Progress, conclude, encoded, read_input
from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.core.names import ModelName
from paddock_runner.parent import die_with_parent
from paddock_runner.sources.base import Source
from paddock_runner.sources.errors import SourceUnsupportedError, UnauthorizedError
from paddock_runner.sources.fetch import Fetched, fetch
from paddock_runner.sources.http import HttpSource
from paddock_runner.sources.network import Network
from paddock_runner.sources.ollama import OllamaSource
from paddock_runner.sources.select import source_for
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import (
    CacheUnusableError,
    DigestMismatchError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
    from_os_error,
)
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import ROLES, LayerProgress, ModelFiles, load_model, used_blobs
from paddock_runner.store.store import Store

EXIT_FAILED = 1
EXIT_RETRY = 75
MAX_REQUEST_BYTES = 1 << 20
_MAX_DETAIL_CHARACTERS = 128

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    die_with_parent()
    logs.setup("puller")
    file: Path | None = arguments.termination_message
    signal.signal(signal.SIGTERM, lambda number, frame: stop_now(file))
    try:
        request = replace(_read_request(arguments.request, arguments.credentials), named=not arguments.pin_only)
        if request.check:
            conclude({"event": "checked", **check(request.source, Network.from_environment())}, file)
            return 0
        result = pull(Store(arguments.models), request, Network.from_environment(), Progress())
    except (StoreError, OSError) as failure:
        error = failure if isinstance(failure, StoreError) else from_os_error(failure, "using", arguments.models)
        return _tell(error, arguments.credentials is not None, file)
    conclude({"event": "result", "result": result}, file)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock-runner pull", description="Resolve and verify one model.")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--request", required=True, metavar="FILE|-|env:NAME", help="the request as JSON")
    parser.add_argument(
        "--credentials", type=Path, metavar="DIR", help="a mounted Secret with the credentials of the source's registry"
    )
    parser.add_argument(
        "--termination-message", type=Path, metavar="FILE", help="write the last event here; a final error exits 0"
    )
    parser.add_argument(
        "--pin-only", action="store_true", help="write no name besides the pin, so that a collector may take it back"
    )
    return parser


def _tell(error: StoreError, with_secret: bool, file: Path | None) -> int:
    """Tell of an error; what a Job's Secret holds may be corrected, and its next attempt reads that again."""
    a_secret = with_secret and file is not None
    if a_secret and isinstance(error, UnauthorizedError) and not error.retryable:
        return failed(error.reason, f"{error}; correct the Secret of secretRef", True, file)
    return failed(error.reason, str(error), error.retryable, file)


def failed(reason: str, message: str, retryable: bool, file: Path | None) -> int:
    """Tell of an error as the last event; returns the exit code."""
    conclude({"event": "error", "reason": reason, "message": message, "retryable": retryable}, file)
    if retryable:
        return EXIT_RETRY
    return EXIT_FAILED if file is None else 0


def stop_now(file: Path | None) -> None:
    """SIGTERM: what is on disk is as good as after any kill, so nothing needs to be waited for."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os._exit(failed("Interrupted", "the puller was asked to end; the next one goes on where it was", True, file))


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. `pinned`: the manifest digest that must come out, None for what the source names now.

    `fresh`: ask the source although the cache knows the name. `validator`: what an earlier result told; if it is still
    true, that result stands and nothing is fetched. `named`: what is fetched gets the source's name besides its pin.
    `check`: nothing is to be fetched, only told what would be.
    """

    source: Source
    pinned: Digest | None = None
    fresh: bool = False
    validator: str = ""
    named: bool = True
    check: bool = False


def _read_request(where: str, credentials: Path | None) -> Request:
    try:
        request = strict_json(read_input(where, MAX_REQUEST_BYTES), MAX_REQUEST_BYTES)
    except OSError as error:
        raise SourceUnsupportedError(f"the request cannot be read: {error}") from None
    except InvalidManifestError as error:
        raise SourceUnsupportedError(f"the request: {error}") from None
    if not isinstance(request, dict):
        raise SourceUnsupportedError("the request must be a JSON object with source and digest")
    source, pinned = source_for(request.get("source"), credentials), request.get("digest")
    fresh, validator, checks = request.get("fresh", False), request.get("validator", ""), request.get("check", False)
    if not isinstance(fresh, bool) or not isinstance(checks, bool) or not isinstance(validator, str):
        raise SourceUnsupportedError("the request: fresh and check must be true or false, and validator a text")
    try:
        wanted = Digest.parse(pinned) if pinned is not None else source.digest
        return Request(source, wanted, fresh, validator, check=checks)
    except InvalidDigestError as error:
        raise SourceUnsupportedError(f"the request: {error}") from None


def pull(store: Store, request: Request, network: Network, progress: LayerProgress) -> dict[str, Any]:
    """Find or fetch the model, verify all its bytes, pin its manifest; returns the result object of the contract.

    Raises StoreError.
    """
    _sweep(store)
    found = _resolve(store, request, network, progress)
    try:
        files = _verified(store, found, progress)
    except (DigestMismatchError, NotFoundError) as error:
        # Damaged in the cache, or collected a moment ago: a source that can fetch does it again.
        log.warning("the cache does not hold the model whole: %s", error)
        if network.offline:
            raise
        found = _fetch(store, replace(request, validator=""), network, progress)
        files = _verified(store, found, progress)
    words = {"revision": found.revision, "validator": found.validator}
    return result_of(found.stored, files, request.source.name, words)


def _sweep(store: Store) -> None:
    try:
        store.sweep()
    except CacheUnusableError as error:
        log.warning("leftovers were not removed: %s", error)


def _resolve(store: Store, request: Request, network: Network, progress: LayerProgress) -> Fetched:
    with contextlib.suppress(NotFoundError):
        if request.pinned is not None:
            return Fetched(store.manifest_by_digest(request.pinned))
        if not request.fresh and (network.offline or isinstance(request.source, OllamaSource | HttpSource)):
            # What the cache calls by this name counts at first: so a machine without a network can be seeded.
            return Fetched(_named(store, request.source))
    return _fetch(store, request, network, progress)


def _named(store: Store, source: Source) -> StoredManifest:
    stored = store.manifest(source.name)
    if isinstance(source, HttpSource) and not source.holds(stored.manifest):
        log.warning("the cache has other bytes under the name of %s", source.sha256)
        raise NotFoundError(f"the model {source.sha256} is not in the cache")
    return stored


def _fetch(store: Store, request: Request, network: Network, progress: LayerProgress) -> Fetched:
    found = asyncio.run(_fetch_async(store, request, network, progress))
    if request.pinned is not None and found.stored.digest != request.pinned:
        raise DigestMismatchError(f"the manifest of {str(request.source.name)!r}", request.pinned, found.stored.digest)
    return found


async def _fetch_async(store: Store, request: Request, network: Network, progress: LayerProgress) -> Fetched:
    async with Transport(network, request.source.access) as transport:
        return await fetch(store, request.source, transport, progress, request.validator, named=request.named)


def _verified(store: Store, found: Fetched, progress: LayerProgress) -> ModelFiles:
    stored = found.stored
    files = load_model(store, stored, progress=progress)
    try:
        with store.writing():
            # Looked at again: between the hashing and this lock a collector may have removed them.
            store.require_blobs(used_blobs(stored.manifest))
            store.pin(stored.digest, stored.data)
    except ReadOnlyError as error:
        if found.written:
            # This pull could write a moment ago: a pin that is missing now is no property of the folder.
            raise
        log.info("the manifest is not pinned: %s", error)
    return files


def result_of(
    stored: StoredManifest, files: ModelFiles, name: ModelName, words: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The result object of the contract; `words` are further members, left out when empty or long.

    Half a word says nothing: a validator that is cut would never be true again.
    """
    order = list(ROLES)
    layers = sorted((item for item in stored.manifest.layers if item.kind in ROLES), key=lambda x: order.index(x.kind))
    roles = [{"role": ROLES[item.kind], "digest": str(item.digest), "size": item.size} for item in layers]
    result = {
        "digest": str(stored.digest),
        "name": (name if stored.is_pin else stored.name).full,
        "size": stored.manifest.size,
        "files": roles,
        "details": {name: _bounded(value) for name, value in files.details.items()},
        **{name: value for name, value in words.items() if 0 < len(value) <= _MAX_DETAIL_CHARACTERS},
    }
    # A Job reports through its termination message, which has a hard limit; licenses come last and go first.
    while len(encoded({"event": "result", "result": result}).encode()) > MAX_VERDICT_BYTES and len(roles) > 1:
        roles.pop()
    return result


def _bounded(value: Any) -> Any:
    return value[:_MAX_DETAIL_CHARACTERS] if isinstance(value, str) else value
