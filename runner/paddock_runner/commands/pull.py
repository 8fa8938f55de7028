"""`paddock-runner pull`: resolve one Model's source to a verified, pinned manifest and report it as JSON lines.

Called by `paddock_runner.__main__`, which the executor starts as a child (or a Job). The request and the events are
described in docs/reference/contracts.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddock_runner import logs
from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.parent import die_with_parent
from paddock_runner.sources.base import Source
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.select import source_for
from paddock_runner.store.errors import (
    CacheUnusableError,
    DigestMismatchError,
    NotFoundError,
    ReadOnlyError,
    StoreError,
    from_os_error,
)
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import ROLES, LayerProgress, ModelFiles, load_model
from paddock_runner.store.store import Store

EXIT_FAILED = 1
EXIT_RETRY = 75
MAX_REQUEST_BYTES = 1 << 20
MAX_RESULT_BYTES = 4096
_PROGRESS_BYTES = 1 << 22

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns 0 (a result was printed), 1 (an error), or 75 (an error that may pass)."""
    parser = argparse.ArgumentParser(prog="paddock-runner pull", description="Resolve and verify one model.")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--request", required=True, metavar="FILE|-", help="the request as JSON")
    arguments = parser.parse_args(argv)
    die_with_parent()
    logs.setup("puller")
    try:
        result = pull(Store(arguments.models), *_read_request(arguments.request), _Progress())
    except (StoreError, OSError) as failure:
        error = failure if isinstance(failure, StoreError) else from_os_error(failure, "using", arguments.models)
        _print({"event": "error", "reason": error.reason, "message": str(error), "retryable": error.retryable})
        return EXIT_RETRY if error.retryable else EXIT_FAILED
    _print({"event": "result", "result": result})
    return 0


def _print(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


class _Progress:
    """Prints at most one event per 4 MiB of a digest, and its last one."""

    def __init__(self) -> None:
        self._told: tuple[Digest | None, int] = (None, 0)

    def __call__(self, digest: Digest, completed: int, total: int) -> None:
        told, at = self._told
        if told == digest and at <= completed < min(at + _PROGRESS_BYTES, total):
            return
        self._told = (digest, completed)
        _print({"event": "progress", "digest": str(digest), "completed": completed, "total": total})


def _read_request(where: str) -> tuple[Source, Digest | None]:
    try:
        data = sys.stdin.buffer.read(MAX_REQUEST_BYTES + 1) if where == "-" else Path(where).read_bytes()
        request = strict_json(data, MAX_REQUEST_BYTES)
    except OSError as error:
        raise SourceUnsupportedError(f"the request cannot be read: {error}") from None
    except InvalidManifestError as error:
        raise SourceUnsupportedError(f"the request: {error}") from None
    if not isinstance(request, dict):
        raise SourceUnsupportedError("the request must be a JSON object with source and digest")
    source, pinned = source_for(request.get("source")), request.get("digest")
    try:
        return source, Digest.parse(pinned) if pinned is not None else source.digest
    except InvalidDigestError as error:
        raise SourceUnsupportedError(f"the request: {error}") from None


def pull(store: Store, source: Source, pinned: Digest | None, progress: LayerProgress) -> dict[str, Any]:
    """Find or fetch the model, verify all its bytes, pin its manifest; returns the result object of the contract.

    `pinned` is the manifest digest that must come out, None to take what the source names now. Raises StoreError.
    """
    _sweep(store)
    stored = _resolve(store, source, pinned, progress)
    files = load_model(store, stored, progress=progress)
    _pin(store, stored)
    return _result(stored, files, source)


def _sweep(store: Store) -> None:
    try:
        store.sweep()
    except CacheUnusableError as error:
        log.warning("leftovers were not removed: %s", error)


def _resolve(store: Store, source: Source, pinned: Digest | None, progress: LayerProgress) -> StoredManifest:
    if pinned is not None:
        try:
            return store.manifest_by_digest(pinned)
        except NotFoundError:
            pass
    stored = source.fetch(store, progress)
    if pinned is not None and stored.digest != pinned:
        raise DigestMismatchError(f"the manifest of {str(source.name)!r}", pinned, stored.digest)
    return stored


def _pin(store: Store, stored: StoredManifest) -> None:
    try:
        with store.writing():
            store.pin(stored.digest, stored.data)
    except ReadOnlyError as error:
        log.info("the manifest is not pinned: %s", error)


def _result(stored: StoredManifest, files: ModelFiles, source: Source) -> dict[str, Any]:
    order = list(ROLES)
    layers = sorted((item for item in stored.manifest.layers if item.kind in ROLES), key=lambda x: order.index(x.kind))
    roles = [{"role": ROLES[item.kind], "digest": str(item.digest), "size": item.size} for item in layers]
    result = {
        "digest": str(stored.digest),
        "name": (source.name if stored.is_pin else stored.name).full,
        "size": stored.manifest.size,
        "files": roles,
        "details": dict(files.details),
    }
    # A Job reports through its termination message, which has a hard limit; licenses come last and go first.
    while len(json.dumps(result)) > MAX_RESULT_BYTES and len(roles) > 1:
        roles.pop()
    return result
