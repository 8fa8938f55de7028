"""Air-gap bundles, the way in: a tar stream from anywhere becomes models of the store, verified while it is read.

Called by `commands.bundle`; `store.bundle` writes what this reads. A name appears after all its bytes, and bytes that
are there already are passed over. Nothing of the archive is ever used as a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MAX_MANIFEST_BYTES, Layer, Manifest
from paddock_runner.core.names import ModelName
from paddock_runner.store.blobs import Progress
from paddock_runner.store.bundle_layout import (
    INDEX,
    LAYOUT,
    MAX_LAYOUT_BYTES,
    check_layout,
    digest_of,
    parse_index,
    parse_model,
)
from paddock_runner.store.errors import DigestMismatchError, NotFoundError, SizeMismatchError
from paddock_runner.store.files import open_regular
from paddock_runner.store.gguf import check_gguf
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.split import check_part
from paddock_runner.store.store import Store
from paddock_runner.store.tar_stream import InvalidBundleError, Member, members
from paddock_runner.store.writer import Check

MAX_MANIFESTS_BYTES = 64 << 20

_GGUF_KINDS = ("model", "projector", "adapter")


def import_(store: Store, stream: BinaryIO, progress: LayerProgress) -> tuple[StoredManifest, ...]:
    """Bring the models of a bundle into the store; returns their manifests, by name.

    A model's name appears only when all its bytes are there and verified. Blobs that are there already are passed over,
    and those that were written before a failure stay, so that the next attempt goes on. A stream that cannot seek must
    have its parts in the order that `export` writes. Raises InvalidBundleError, DigestMismatchError, SizeMismatchError,
    NotFoundError (blobs are missing: the other models are imported), NoSpaceError, CacheUnusableError and the errors
    of the GGUF check.
    """
    reader = _Input(store, progress)
    if stream.seekable():
        start = stream.tell()
        for stage in (reader.describe, reader.collect, reader.take):
            stream.seek(start)
            _each(stream, stage, lambda size: stream.seek(size, os.SEEK_CUR))
    else:
        _each(stream, reader.all_in_order, None)
    return reader.finish()


def _each(stream: BinaryIO, use: Callable[[Member], None], skip: Callable[[int], object] | None) -> None:
    for member in members(stream, skip):
        use(member)


@dataclass(slots=True)
class _Input:
    """What is known of a bundle so far: its index, its manifests, the blobs that they want."""

    store: Store
    progress: LayerProgress
    layout: bool = False
    described: bool = False
    names: dict[ModelName, Layer] = field(default_factory=dict)
    expected: dict[Digest, int] = field(default_factory=dict)
    manifests: dict[Digest, bytes] = field(default_factory=dict)
    parsed: dict[Digest, Manifest] = field(default_factory=dict)
    wanted: dict[Digest, Layer] = field(default_factory=dict)
    present: set[Digest] = field(default_factory=set)

    def all_in_order(self, member: Member) -> None:
        """One pass over a stream: a blob may not come before what says whether it is wanted."""
        digest = digest_of(member.name)
        if digest is not None and (not self.described or self._is_early(digest)):
            raise InvalidBundleError(
                f"{member.name} comes before {'the manifests' if self.described else INDEX}; "
                "a stream must be in the order that export writes: save it to a file and import that"
            )
        self.describe(member)
        self.collect(member)
        self.take(member)

    def _is_early(self, digest: Digest) -> bool:
        return digest not in self.expected and len(self.manifests) < len(self.expected)

    def describe(self, member: Member) -> None:
        """Read `oci-layout` and `index.json`; refuse names that have no place in a layout."""
        if member.name == LAYOUT:
            check_layout(member.content(MAX_LAYOUT_BYTES))
            self.layout = True
        elif member.name == INDEX:
            self._read_index(member.content(MAX_MANIFEST_BYTES))
        elif digest_of(member.name) is None:
            raise InvalidBundleError(f"{member.name[:200]!r} has no place in an OCI image layout of sha256 blobs")

    def _read_index(self, data: bytes) -> None:
        for name, entry in parse_index(data):
            if name in self.names:
                raise InvalidBundleError(f"{INDEX} names {str(name)!r} twice")
            if self.expected.setdefault(entry.digest, entry.size) != entry.size:
                raise InvalidBundleError(f"{INDEX} lists {entry.digest} with two sizes")
            self.names[name] = entry
        if sum(self.expected.values()) > MAX_MANIFESTS_BYTES:
            raise InvalidBundleError(f"its manifests have more than {MAX_MANIFESTS_BYTES} bytes together")
        self.described = True

    def collect(self, member: Member) -> None:
        """Read the manifests that the index names."""
        digest = digest_of(member.name)
        if digest not in self.expected or digest in self.manifests:
            return
        _check_size(member, self.expected[digest])
        data = member.content(MAX_MANIFEST_BYTES)
        if Digest.of(data) != digest:
            raise DigestMismatchError(f"{member.name} of the bundle", digest, Digest.of(data))
        self.manifests[digest] = data
        self.parsed[digest] = manifest = parse_model(data, digest)
        for layer in manifest.blobs:
            if self.wanted.setdefault(layer.digest, layer).size != layer.size:
                raise InvalidBundleError(f"its manifests give {layer.digest} two sizes")

    def take(self, member: Member) -> None:
        """Write a blob that a manifest wants, unless the store holds it verified."""
        digest = digest_of(member.name)
        layer = self.wanted.get(digest) if digest is not None else None
        if digest is None or layer is None:
            return
        _check_size(member, layer.size)
        self.present.add(digest)
        if not self._have(layer):
            source = cast(BinaryIO, member)
            self.store.write_blob(source, digest, layer.size, self._check(digest), self._telling(digest))

    def _telling(self, digest: Digest) -> Progress:
        return lambda done, total: self.progress(digest, done, total)

    def _check(self, digest: Digest) -> Check | None:
        """A blob is checked as what any manifest uses it for."""
        for manifest in self.parsed.values():
            if any(layer.digest == digest and layer.kind in _GGUF_KINDS for layer in manifest.layers):
                return check_part if len(manifest.of_kind("model")) > 1 else check_gguf
        return None

    def _have(self, layer: Layer) -> bool:
        try:
            if self.store.verify_blob(layer.digest) != layer.size:
                return False
        except (NotFoundError, DigestMismatchError):
            return False
        check = self._check(layer.digest)
        if check is not None:
            with open(open_regular(self.store.blob_path(layer.digest)), "rb") as stream:
                check(stream)
        return True

    def finish(self) -> tuple[StoredManifest, ...]:
        """Give the complete models their names. Raises InvalidBundleError, NotFoundError for those that are not."""
        if not (self.layout and self.described):
            raise InvalidBundleError(f"it has no {INDEX if self.layout else LAYOUT}: it is no OCI image layout")
        missing = {name: lack for name, entry in self.names.items() if (lack := self._lacks(entry.digest))}
        with self.store.writing():
            written = [self._name(name) for name in sorted(self.names, key=str) if name not in missing]
        if missing:
            lacks = "; ".join(f"{name} lacks {lack}" for name, lack in list(missing.items())[:10])
            raise NotFoundError(f"the bundle is incomplete: {lacks} ({len(written)} other models are imported)")
        return tuple(written)

    def _lacks(self, digest: Digest) -> str:
        if digest not in self.parsed:
            return f"its manifest {digest}"
        absent = [layer.digest for layer in self.parsed[digest].blobs if layer.digest not in self.present]
        return next((str(blob) for blob in absent if not self._have(self.wanted[blob])), "")

    def _name(self, name: ModelName) -> StoredManifest:
        # Looked at again under the lock: a collector may have removed what was there a moment ago.
        digest = self.names[name].digest
        self.store.require_blobs(self.parsed[digest].blobs)
        return self.store.write_manifest(name, self.manifests[digest])


def _check_size(member: Member, size: int) -> None:
    if member.size != size:
        raise SizeMismatchError(f"{member.name} of the bundle", size, member.size)
