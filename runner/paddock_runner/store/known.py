"""Files outside the store that were hashed once: their digests by device, inode, size and times.

Called by `store.place`, so that a restart does not read 40 GB again, and by `store.collect`, which forgets.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from paddock_runner.core.digest import Digest
from paddock_runner.store.errors import StoreError
from paddock_runner.store.files import atomic_write, os_errors, read_bounded
from paddock_runner.store.store import Store

_MAX_KNOWN = 10_000
_MAX_BYTES = 4096


def facts_of(status: os.stat_result) -> dict[str, int]:
    """What changes when the bytes of a file do: its device, inode, size and times."""
    return {
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def _known_folder(store: Store) -> Path:
    return store.path / ".paddock" / "known"


def _known_path(store: Store, facts: dict[str, int]) -> Path:
    return _known_folder(store) / f"{facts['device']:x}-{facts['inode']:x}"


def known_digest(store: Store, status: os.stat_result) -> Digest | None:
    """The digest of the file with these facts, None if it was not hashed or has changed since."""
    facts = facts_of(status)
    try:
        value = json.loads(read_bounded(_known_path(store, facts), _MAX_BYTES))
        digest = Digest.parse(value["digest"])
    except (StoreError, ValueError, LookupError, TypeError):
        return None
    return digest if value == _record(facts, digest) else None


def _record(facts: dict[str, int], digest: Digest) -> dict[str, object]:
    return {"version": 1, "digest": str(digest), **facts}


def remember(store: Store, status: os.stat_result, digest: Digest) -> None:
    """Note that the file with these facts hashes to `digest`; nothing happens where nothing can be written."""
    facts = facts_of(status)
    data = json.dumps(_record(facts, digest), separators=(",", ":")).encode()
    with contextlib.suppress(StoreError):
        atomic_write(_known_path(store, facts), data, store.path / ".paddock" / "tmp")


def forget_missing(store: Store) -> None:
    """Drop what is known of files whose blob is gone; looks at 10 000 at most. Called while collecting."""
    for path in _entries(_known_folder(store)):
        try:
            digest = Digest.parse(json.loads(read_bounded(path, _MAX_BYTES)).get("digest"))
        except (StoreError, ValueError, AttributeError):
            digest = None
        if digest is None or not store.blob_path(digest).exists():
            with os_errors("deleting", path):
                path.unlink(missing_ok=True)


def _entries(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.path for entry, _ in zip(entries, range(_MAX_KNOWN), strict=False)]
    except OSError:
        return
    yield from map(Path, names)
