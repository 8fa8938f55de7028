"""Carry out a source's plan: every file into the store, verified, then the manifest around them.

Called by `commands.pull`. The bytes of remote files come by `sources.download`, local ones by `store.place`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MAX_BLOB_BYTES, MAX_LAYERS, InvalidManifestError, Layer, layer, parse_manifest
from paddock_runner.sources.base import Source
from paddock_runner.sources.download.blob import download
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.plan import FetchPlan, Inline, Local, PlannedFile
from paddock_runner.sources.transport import Transport
from paddock_runner.store.blobs import Blob
from paddock_runner.store.create import assemble
from paddock_runner.store.errors import DigestMismatchError, InvalidModelError, NotFoundError, SizeMismatchError
from paddock_runner.store.files import make_folder, require_space
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.place import place
from paddock_runner.store.split import check_part
from paddock_runner.store.store import Store
from paddock_runner.store.writer import Check

FILES_AT_ONCE = 2
"""Files beside each other, each with connections of its own: a small one does not wait behind 40 GB."""

GGUF_KINDS = ("model", "adapter", "projector")
_TRIES = 2


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest in the store, and what its source said of it: see FetchPlan."""

    stored: StoredManifest
    revision: str = ""
    validator: str = ""


async def fetch(
    store: Store, source: Source, transport: Transport, progress: LayerProgress, validator: str = ""
) -> Fetched:
    """Bring the model of `source` into the store. With the `validator` of an earlier fetch that still holds, nothing
    is fetched.

    Raises whatever `source.plan`, `download` and `place` raise, and InvalidModelError for a plan that contradicts
    itself.
    """
    plan = await source.plan(transport)
    if not plan.files or (validator and validator == plan.validator):
        with contextlib.suppress(NotFoundError if plan.files else ()):
            return Fetched(await asyncio.to_thread(store.manifest, plan.name), plan.revision, plan.validator)
    check_plan(plan)
    return Fetched(await _carry_out(store, plan, transport, progress), plan.revision, plan.validator)


async def _carry_out(store: Store, plan: FetchPlan, transport: Transport, progress: LayerProgress) -> StoredManifest:
    make_folder(store.path)
    for _ in range(_TRIES):
        require_space(store.path, _missing(store, plan.files), "the model")
        blobs = await _bring_all(store, plan.files, transport, progress)
        if (stored := await asyncio.to_thread(_write, store, plan, blobs)) is not None:
            return stored
    raise NotFoundError(f"blobs of {plan.name} disappeared while they were given their name")


def check_plan(plan: FetchPlan) -> None:
    """Refuse a plan that is too large or says two things. Raises InvalidModelError that names the file."""
    if len(plan.files) > MAX_LAYERS:
        raise InvalidModelError(f"the source names {len(plan.files)} files, the limit is {MAX_LAYERS}")
    sizes: dict[Digest, int] = {}
    for file in plan.files:
        if file.size is not None and not 0 <= file.size <= MAX_BLOB_BYTES:
            raise InvalidModelError(f"{file.name[:200]}: the size must be 0 to {MAX_BLOB_BYTES} bytes")
        if file.digest is not None and file.size is not None and sizes.setdefault(file.digest, file.size) != file.size:
            raise InvalidModelError(f"{file.name[:200]}: {file.digest} is listed with two sizes")
    if plan.manifest is not None:
        _check_manifest(plan, plan.manifest)


def _check_manifest(plan: FetchPlan, data: bytes) -> None:
    try:
        wanted = {item.digest for item in parse_manifest(data).blobs}
    except InvalidManifestError as error:
        raise InvalidModelError(f"the manifest of {plan.name}: {error}") from None
    if missing := wanted - {file.digest for file in plan.files}:
        raise InvalidModelError(f"the manifest of {plan.name} lists {min(missing)}, which is not among its files")


def _missing(store: Store, files: Sequence[PlannedFile]) -> int:
    """Bytes that are to be fetched, as far as sizes are known."""
    wanted = {file.digest: file.size or 0 for file in files if file.digest is not None}
    return sum(size for digest, size in wanted.items() if not store.has_verified(digest))


async def _bring_all(
    store: Store, files: Sequence[PlannedFile], transport: Transport, progress: LayerProgress
) -> list[Blob]:
    gate = asyncio.Semaphore(FILES_AT_ONCE)

    async def one(file: PlannedFile) -> Blob:
        async with gate:
            return await _bring(store, file, transport, progress)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(file)) for file in files]
    except ExceptionGroup as several:
        # One verdict for one pull: the first failure ended the others.
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


async def _bring(store: Store, file: PlannedFile, transport: Transport, progress: LayerProgress) -> Blob:
    check: Check | None = check_part if file.kind in GGUF_KINDS else None
    if isinstance(file.where, Inline):
        data = io.BytesIO(file.where.data)
        return await asyncio.to_thread(store.write_blob, data, file.digest, len(file.where.data), check)
    if isinstance(file.where, Local):
        return await asyncio.to_thread(_place, store, file, file.where, check, progress)
    return await download(store, file, transport, progress, check)


def _place(store: Store, file: PlannedFile, where: Local, check: Check | None, progress: LayerProgress) -> Blob:
    shown = file.digest or Digest.of(file.name.encode())
    return place(store, where.path, file.digest, where.placement, check, lambda done, all_: progress(shown, done, all_))


def _write(store: Store, plan: FetchPlan, blobs: Sequence[Blob]) -> StoredManifest | None:
    """Write the manifest; None if a collector removed bytes, which nobody referenced, a moment ago."""
    layers = [_layer(file, blob) for file, blob in zip(plan.files, blobs, strict=True)]
    with store.writing():
        try:
            store.require_blobs(layers)
        except NotFoundError:
            return None
        if plan.manifest is not None:
            return store.write_manifest(plan.name, plan.manifest)
        return assemble(store, plan.name, [item for item in layers if item.kind != "config"])


def _layer(file: PlannedFile, blob: Blob) -> Layer:
    if file.digest not in (None, blob.digest):
        raise DigestMismatchError(file.name[:200], file.digest, blob.digest)
    if file.size not in (None, blob.size):
        raise SizeMismatchError(file.name[:200], file.size or 0, blob.size)
    if not file.kind and not file.media_type:
        raise SourceUnsupportedError(f"{file.name[:200]}: a file of no known kind")
    return Layer(file.media_type, blob.digest, blob.size) if not file.kind else layer(file.kind, blob.digest, blob.size)
