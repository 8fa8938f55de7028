"""Hash everything again, whatever the markers say: damaged blobs leave their names, so that nobody is served by them.

Called by `commands.store_verify`. A damaged blob is renamed to `.paddock/quarantine/`, where a repair may take what is
sound of it; a collector removes it after a week.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import Layer
from paddock_runner.core.names import ModelName
from paddock_runner.store.blobs import Progress
from paddock_runner.store.errors import CacheUnusableError, NotFoundError, StoreError
from paddock_runner.store.files import (
    atomic_write,
    make_folder,
    open_regular,
    os_errors,
    read_bounded,
    sync_folder,
    temporary_name,
)
from paddock_runner.store.journal import MAX_JOURNAL_BYTES, parse
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.partial import JOURNAL, kept_journal
from paddock_runner.store.store import Store
from paddock_runner.store.usage import every_manifest
from paddock_runner.store.writer import CHUNK_BYTES

LOCK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one blob. `problem` is "" for a sound one; `size` in bytes, 0 for a missing one.

    `names` are the models that need it, pins included; `quarantine` is where a damaged file lies now.
    """

    digest: Digest
    size: int
    names: tuple[ModelName, ...] = ()
    problem: str = ""
    quarantine: Path | None = None


def wanted(store: Store, names: Iterable[ModelName]) -> dict[Digest, list[tuple[ModelName, Layer]]]:
    """The blobs of these models, or of every manifest that can be read, and who needs them. Raises NotFoundError."""
    manifests = [store.manifest(name) for name in names] or [
        item for item in every_manifest(store) if isinstance(item, StoredManifest)
    ]
    found: dict[Digest, list[tuple[ModelName, Layer]]] = {}
    for stored in manifests:
        for layer in stored.manifest.blobs:
            found.setdefault(layer.digest, []).append((stored.name, layer))
    return found


def unreadable(store: Store) -> Iterator[tuple[ModelName, StoreError]]:
    """The names whose manifests cannot be read, and why: nobody knows which blobs they need."""
    for item in every_manifest(store):
        if isinstance(item, ModelName):
            try:
                store.manifest(item)
            except NotFoundError:
                continue
            except StoreError as error:
                yield item, error


def verify(store: Store, names: Iterable[ModelName] = (), progress: Progress | None = None) -> Iterator[Checked]:
    """Check every blob of these models, or every blob of the folder; yields each when it is done.

    Raises NotFoundError for a name that is not there. On a store that is read-only damaged blobs stay where they are.
    """
    chosen = tuple(names)
    needed = wanted(store, chosen)
    stray = set() if chosen else set(_held(store)) - set(needed)
    for digest in sorted({*needed, *stray}):
        uses = needed.get(digest, [])
        users = tuple(sorted({name for name, _ in uses}, key=str))
        yield _check(store, digest, users, {layer.size for _, layer in uses}, progress)


def _held(store: Store) -> Iterator[Digest]:
    folder = store.path / "blobs"
    if not folder.is_dir():
        return
    with os_errors("listing", folder), os.scandir(folder) as entries:
        for entry in entries:
            try:
                yield Digest.from_file_name(entry.name)
            except InvalidDigestError:
                continue


def _check(
    store: Store, digest: Digest, users: tuple[ModelName, ...], sizes: set[int], progress: Progress | None
) -> Checked:
    path = store.blob_path(digest)
    try:
        handle = open_regular(path)
    except NotFoundError:
        return Checked(digest, 0, users, "it is missing" if not path.is_symlink() else "it is a link to nowhere")
    except CacheUnusableError as error:
        return Checked(digest, 0, users, str(error), _quarantine(store, digest, None))
    try:
        size = os.fstat(handle).st_size
        actual = _hash(handle, path, progress)
        if actual != digest:
            return Checked(digest, size, users, f"its bytes hash to {actual}", _quarantine(store, digest, handle))
        wrong = sizes - {size}
        if wrong:
            return Checked(digest, size, users, f"it has {size} bytes, but a manifest says {min(wrong)}")
        return Checked(digest, size, users)
    finally:
        os.close(handle)


def _hash(handle: int, path: Path, progress: Progress | None) -> Digest:
    hasher, done, size = hashlib.sha256(), 0, os.fstat(handle).st_size
    with os_errors("reading", path):
        while chunk := os.read(handle, CHUNK_BYTES):
            hasher.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(size, done))
    return Digest(hasher.hexdigest())


def _quarantine(store: Store, digest: Digest, handle: int | None) -> Path | None:
    """Rename the file away; None if the store is read-only, or a good file took its place meanwhile."""
    if store.read_only:
        return None
    path, folder = store.blob_path(digest), store.path / ".paddock" / "quarantine"
    target = folder / temporary_name(f"{digest.hex}-")
    try:
        make_folder(folder)
        # Under the lock of its download: nobody else puts a file there now.
        with store.digest_lock(digest, LOCK_SECONDS), os_errors("moving", path):
            if handle is not None and not os.path.samestat(path.lstat(), os.fstat(handle)):
                return None
            path.rename(target)
            sync_folder(folder)
            sync_folder(path.parent)
    except FileNotFoundError:
        return None
    except StoreError:
        return None
    store.remove_stray_markers()
    return target


def prepare_repair(store: Store, checked: Checked) -> None:
    """Give a quarantined blob back to the download engine as an unfinished download, if its journal was kept.

    The engine proves each piece by the journal and fetches only those that are damaged. Without a journal nothing
    happens, and all of it is fetched. Raises CacheUnusableError, LockTimeoutError.
    """
    damaged, partial = checked.quarantine, store.partial_path(checked.digest)
    if damaged is None or (journal := _journal(store, checked.digest)) is None:
        return
    data, size = journal
    with store.digest_lock(checked.digest, LOCK_SECONDS), os_errors("preparing", partial):
        status = damaged.lstat()
        # A file with another name elsewhere is not ours to mend.
        if partial.exists() or not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return
        if status.st_size > size:
            os.truncate(damaged, size)
        damaged.chmod(0o600)
        # By a rename: what somebody planted under that name is replaced, not written through.
        atomic_write(partial.with_name(f"{partial.name}{JOURNAL}"), data, store.path / ".paddock" / "tmp")
        damaged.rename(partial)


def _journal(store: Store, digest: Digest) -> tuple[bytes, int] | None:
    """The journal that was kept and the blob's size that it tells; None without a sound one."""
    try:
        data = read_bounded(kept_journal(store.path / "blobs", digest), MAX_JOURNAL_BYTES)
    except StoreError:
        return None
    facts = parse(data, digest)
    return None if facts is None else (data[: facts.sound_bytes], facts.size)
