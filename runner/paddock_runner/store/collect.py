"""Garbage collection of a model folder: see everything under one lock, let the core decide, remove roots, then blobs.

Called by `commands.collect`. While it runs nobody writes (`Store.writing`); readers keep what they have open. Killed at
any point it leaves unreferenced blobs at worst, never a manifest without its blobs. What somebody serves is held by a
lock (`store.hold`) and stays, whatever the list of live digests says.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Set
from contextlib import ExitStack, closing
from pathlib import Path

from paddock_runner.core.collection import Collection, HeldBlob, Root, plan_collection
from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import MAX_MANIFEST_BYTES, InvalidManifestError, parse_manifest
from paddock_runner.core.names import PIN_HOST, InvalidNameError, ModelName
from paddock_runner.store.errors import CacheUnusableError, NotFoundError
from paddock_runner.store.files import os_errors, read_bounded, remove_anything
from paddock_runner.store.hold import take_for_removal
from paddock_runner.store.known import forget_missing
from paddock_runner.store.store import Store

PARTIAL_SECONDS = 24 * 3600.0
QUARANTINE_SECONDS = 7 * 24 * 3600.0
_MAX_DEPTH = 8


def collect(
    store: Store, live: Set[Digest] | None, min_age: float, *, quota: int | None = None, dry_run: bool = False
) -> Collection:
    """Remove what neither a live digest, somebody's name nor a running model needs.

    `live` are manifest digests, None stands for those of all names; `min_age` is in seconds; with `quota` (bytes)
    models go only until the rest fits, oldest use first. Returns what went, or would with `dry_run`. Raises
    CacheUnusableError, with nothing removed, if any manifest cannot be read; ReadOnlyError; LockTimeoutError while
    somebody writes for minutes.
    """
    if not store.path.is_dir():
        raise CacheUnusableError(f"{store.path} is not a folder")
    with store.collecting(), ExitStack() as locks:
        now = time.time()
        roots, blobs = _roots(store, now), tuple(_blobs(store, now))
        needed = {root.digest for root in roots if not root.is_own} if live is None else live
        found = _plan(store, roots, blobs, needed, min_age, quota, locks)
        if not dry_run:
            _remove(store, found, now)
    return found


def _plan(
    store: Store,
    roots: list[Root],
    blobs: tuple[HeldBlob, ...],
    live: Set[Digest],
    min_age: float,
    quota: int | None,
    locks: ExitStack,
) -> Collection:
    """The collection whose every root is locked: nobody serves it, nobody begins to before it is gone."""
    digests = {root.name: root.digest for root in roots if root.name is not None}
    taken: set[ModelName] = set()
    while True:
        found = plan_collection(roots, blobs, live, min_age, quota)
        served: set[Digest] = set()
        for name in set(found.names) - taken:
            lock = take_for_removal(store, name)
            if lock is None:
                served.add(digests[name])
            else:
                locks.enter_context(closing(lock))
                taken.add(name)
        if not served:
            return found
        live = live | served


def _remove(store: Store, found: Collection, now: float) -> None:
    for name in found.names:
        store.remove_root(name)
    for blob in found.blobs:
        store.remove_blob(blob.digest)
    store.remove_stray_markers()
    store.sweep(PARTIAL_SECONDS)
    store.remove_free_working_folders()
    store.remove_free_locks()
    forget_missing(store)
    _forget_journals(store)
    _empty_quarantine(store.path / ".paddock" / "quarantine", now - QUARANTINE_SECONDS)


def _forget_journals(store: Store) -> None:
    """Journals of blobs that are gone help nobody."""
    folder = store.path / ".paddock" / "journals"
    if not folder.is_dir():
        return
    with os_errors("deleting", folder), os.scandir(folder) as entries:
        for entry in entries:
            if not (store.path / "blobs" / f"sha256-{entry.name}").exists():
                remove_anything(Path(entry.path))


def _empty_quarantine(folder: Path, before: float) -> None:
    if not folder.is_dir():
        return
    with os_errors("deleting", folder), os.scandir(folder) as entries:
        for entry in entries:
            # Its bytes' own times are old; the rename into the folder moved ctime.
            if entry.stat(follow_symlinks=False).st_ctime < before:
                remove_anything(Path(entry.path))


def _roots(store: Store, now: float) -> list[Root]:
    top = store.path / "manifests"
    if not top.is_dir():
        if any(_blobs(store, now)):
            raise CacheUnusableError(f"{top} is missing, so nobody knows which blobs are needed; nothing is removed")
        return []
    return [root for path in _files(top, _MAX_DEPTH) if (root := _root(path, top, now)) is not None]


def _files(folder: Path, depth: int) -> Iterator[Path]:
    if depth == 0:
        raise CacheUnusableError(f"{folder} lies too deep for a folder of manifests; move it away")
    with os_errors("listing", folder), os.scandir(folder) as entries:
        found = [(Path(entry.path), entry.is_dir()) for entry in entries]
    for path, is_folder in found:
        if is_folder:
            yield from _files(path, depth - 1)
        else:
            yield path


def _root(path: Path, top: Path, now: float) -> Root | None:
    """None if the file is gone by now: another program removed its name."""
    try:
        data, age = read_bounded(path, MAX_MANIFEST_BYTES), _age(path.lstat(), now)
        manifest = parse_manifest(data)
    except (NotFoundError, FileNotFoundError):
        return None
    except InvalidManifestError as error:
        raise _unknown(path, str(error)) from None
    name, digest = _name_of(path.relative_to(top).parts), Digest.of(data)
    if name is not None and name.host == PIN_HOST and name.model != digest.hex:
        raise _unknown(path, f"its bytes hash to {digest}")
    return Root(name, digest, frozenset(layer.digest for layer in manifest.blobs), age)


def _unknown(path: Path, problem: str) -> CacheUnusableError:
    return CacheUnusableError(
        f"{path} is no readable manifest ({problem}), so nobody knows which blobs it needs; nothing is removed: "
        "remove it, or create or pull its model again"
    )


def _name_of(parts: tuple[str, ...]) -> ModelName | None:
    try:
        host, namespace, model, tag = parts
        return ModelName(model, tag, namespace, host)
    except (ValueError, InvalidNameError):
        return None


def _blobs(store: Store, now: float) -> Iterator[HeldBlob]:
    folder = store.path / "blobs"
    if not folder.is_dir():
        return
    with os_errors("listing", folder), os.scandir(folder) as entries:
        for entry in entries:
            try:
                digest, status = Digest.from_file_name(entry.name), entry.stat(follow_symlinks=False)
            except (InvalidDigestError, FileNotFoundError):
                continue
            if stat.S_ISREG(status.st_mode):
                yield HeldBlob(digest, status.st_size, _age(status, now))


def _age(status: os.stat_result, now: float) -> float:
    # The later of the two: a finished download keeps its bytes' time and is renamed just before it is needed. A time
    # to come says nothing (a copied mtime, a clock that was set back); with no other the file counts as new.
    past = [time for time in (status.st_mtime, status.st_ctime) if time <= now]
    return now - max(past, default=now)
