"""What the bytes of a model folder are for: by model, shared, unreferenced, unfinished. Called by `commands.store`."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paddock_runner.core.collection import OWN_HOSTS
from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.names import ModelName
from paddock_runner.store.errors import CacheUnusableError
from paddock_runner.store.files import os_errors
from paddock_runner.store.manifests import Manifests, StoredManifest
from paddock_runner.store.store import Store


def every_manifest(store: Store) -> Iterator[StoredManifest | ModelName]:
    """Every manifest that can be read, pins included, and the bare name of every other one."""
    return Manifests(store.path / "manifests", store.path / ".paddock" / "tmp").all()


def usage(store: Store) -> dict[str, Any]:
    """The object that `store du` prints; all numbers are bytes. Raises CacheUnusableError if the folder is unreadable.

    `models[]`: `size` of all its files, `own` what removing the name would free, `shared` the rest. `hidden`: only for
    pins and other names of Paddock's own. `unreferenced`: for no manifest. `partial`: unfinished downloads.
    `working`: in the working folders of conversions, of those that run and of those that were killed.
    """
    blobs, partial = _blobs(store.path / "blobs")
    working = sum(_working_size(folder) for folder in store.working_folders())
    every = list(every_manifest(store))
    roots = [item for item in every if isinstance(item, StoredManifest)]
    models = [root for root in roots if root.name.host.lower() not in OWN_HOSTS]
    named = {digest for root in models for digest in _digests(root)}
    needed = {digest for root in roots for digest in _digests(root)}
    return {
        "models": [_model(root, models, blobs) for root in sorted(models, key=lambda root: str(root.name))],
        "named": _sum(blobs, named),
        "hidden": _sum(blobs, needed - named),
        "unreferenced": _sum(blobs, set(blobs) - needed),
        "partial": partial,
        "working": working,
        "quarantine": _folder_size(store.path / ".paddock" / "quarantine"),
        "total": sum(blobs.values()) + partial + working,
        "unreadable": [str(item) for item in every if not isinstance(item, StoredManifest)],
    }


def _model(root: StoredManifest, models: list[StoredManifest], blobs: Mapping[Digest, int]) -> dict[str, Any]:
    mine = _digests(root)
    others = {digest for other in models if other.name != root.name for digest in _digests(other)}
    size = _sum(blobs, mine)
    own = _sum(blobs, mine - others)
    return {"name": str(root.name), "digest": root.digest.hex, "size": size, "own": own, "shared": size - own}


def _digests(root: StoredManifest) -> set[Digest]:
    return {layer.digest for layer in root.manifest.blobs}


def _sum(blobs: Mapping[Digest, int], digests: set[Digest]) -> int:
    return sum(blobs.get(digest, 0) for digest in digests)


def _blobs(folder: Path) -> tuple[dict[Digest, int], int]:
    """Bytes of each blob, and of everything else in the folder: what is not finished."""
    found: dict[Digest, int] = {}
    partial = 0
    for name, status in _files(folder):
        try:
            found[Digest.from_file_name(name)] = status.st_size
        except InvalidDigestError:
            # A partial file may have holes: what it takes on the disk counts.
            partial += min(status.st_blocks * 512, status.st_size)
    return found, partial


def _working_size(folder: Path) -> int:
    """What only this folder holds: a result that became a blob by a link counts as that blob."""
    if folder.is_symlink() or not folder.is_dir():
        return 0
    return sum(min(status.st_blocks * 512, status.st_size) for _, status in _files(folder) if status.st_nlink == 1)


def _folder_size(folder: Path) -> int:
    return sum(status.st_size for _, status in _files(folder))


def _files(folder: Path) -> list[tuple[str, os.stat_result]]:
    if folder.exists() and not folder.is_dir():
        raise CacheUnusableError(f"{folder} is not a folder")
    found = []
    with os_errors("listing", folder):
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:
            return []
        with entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
    return [(name, status) for name, status in found if stat.S_ISREG(status.st_mode)]
