"""The tree `manifests/<host>/<namespace>/<model>/<tag>`: reading, listing, atomic writing and removing.

Called by `Store`. Names are found without regard to case; a file that is no manifest harms only itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MAX_MANIFEST_BYTES, InvalidManifestError, Manifest, parse_manifest
from paddock_runner.core.names import PIN_HOST, InvalidNameError, ModelName
from paddock_runner.store.errors import CacheUnusableError, NotFoundError, StoreError, from_os_error
from paddock_runner.store.files import atomic_write, os_errors, read_bounded, sync_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest of the store; `digest` is that of `data`, `modified_at` seconds since 1970."""

    name: ModelName
    digest: Digest
    data: bytes
    manifest: Manifest
    modified_at: float

    @property
    def is_pin(self) -> bool:
        return self.name.host == PIN_HOST


def pin_name(digest: Digest) -> ModelName:
    """The hidden name that keeps a manifest alive by its digest."""
    return ModelName(host=PIN_HOST, namespace="sha256", model=digest.hex)


class Manifests:
    """`root` is the folder `manifests/`, `scratch` a folder for temporary files on the same file system."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self._scratch = scratch
        self._told: set[str] = set()

    def find(self, name: ModelName) -> ModelName | None:
        """The stored spelling of `name`, None if there is none."""
        if self._path(name).is_file():
            return name
        return next((stored for stored in self.names() if stored == name), None)

    def _path(self, name: ModelName) -> Path:
        return self.root.joinpath(*name.path_parts)

    def read(self, name: ModelName) -> StoredManifest:
        """The manifest of `name`. Raises NotFoundError, CacheUnusableError if it is corrupt."""
        stored = self.find(name)
        if stored is None:
            raise NotFoundError(f"model {str(name)!r} not found")
        path = self._path(stored)
        data = read_bounded(path, MAX_MANIFEST_BYTES)
        try:
            manifest = parse_manifest(data)
        except InvalidManifestError as error:
            raise CacheUnusableError(
                f"the manifest of {str(stored)!r} is corrupt: {error}; create or pull it again"
            ) from None
        try:
            modified_at = path.stat().st_mtime
        except FileNotFoundError:
            # Removed since it was read, so it is no corrupt one.
            raise NotFoundError(f"model {str(name)!r} not found") from None
        except OSError as error:
            raise from_os_error(error, "inspecting", path) from error
        return StoredManifest(stored, Digest.of(data), data, manifest, modified_at)

    def names(self) -> Iterator[ModelName]:
        """All names that have a file, pins included, in no order."""
        for host in _folders(self.root):
            for namespace in _folders(host):
                for model in _folders(namespace):
                    yield from _tags(model)

    def all(self) -> Iterator[StoredManifest | ModelName]:
        """Every readable manifest, and the bare name of every corrupt one."""
        for name in self.names():
            try:
                yield self.read(name)
            except NotFoundError:
                continue
            except StoreError as error:
                self._tell(str(error))
                yield name

    def _tell(self, problem: str) -> None:
        # Once each: a runner that waits for its model looks again and again.
        if problem not in self._told:
            self._told.add(problem)
            log.warning("skipping a manifest: %s", problem)

    def write(self, name: ModelName, data: bytes) -> StoredManifest:
        """Write the manifest of `name` atomically. Raises NoSpaceError, CacheUnusableError, InvalidManifestError."""
        parse_manifest(data)
        target = self.find(name) or name
        atomic_write(self._path(target), data, self._scratch)
        return self.read(target)

    def touch(self, name: ModelName) -> None:
        """Make the manifest of `name` young again. Raises NotFoundError, ReadOnlyError."""
        path = self._path(self.find(name) or name)
        try:
            with os_errors("refreshing", path):
                os.utime(path)
        except CacheUnusableError:
            if path.exists():
                raise
            raise NotFoundError(f"model {str(name)!r} not found") from None

    def remove(self, name: ModelName) -> None:
        """Remove the manifest of `name` and the folders that this empties. Raises NotFoundError."""
        stored = self.find(name)
        if stored is None:
            raise NotFoundError(f"model {str(name)!r} not found")
        path = self._path(stored)
        with os_errors("deleting", path):
            path.unlink()
            sync_folder(path.parent)
        with contextlib.suppress(OSError):
            for folder in list(path.parents)[:3]:
                folder.rmdir()


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise from_os_error(error, "listing", folder) from error


def _tags(folder: Path) -> Iterator[ModelName]:
    try:
        with os.scandir(folder) as entries:
            files = [entry.name for entry in entries if entry.is_file()]
    except FileNotFoundError:
        # A collector or a delete emptied it a moment ago.
        return
    except OSError as error:
        raise from_os_error(error, "listing", folder) from error
    for tag in files:
        with contextlib.suppress(InvalidNameError):
            yield ModelName(folder.name, tag, folder.parent.name, folder.parent.parent.name)
