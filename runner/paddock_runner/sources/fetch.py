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
from paddock_runner.sources.plan import FetchPlan, Inline, Local, PlannedFile
from paddock_runner.sources.transport import Transport
from paddock_runner.store.blobs import Blob
from paddock_runner.store.create import assemble
from paddock_runner.store.errors import DigestMismatchError, InvalidModelError, NotFoundError, SizeMismatchError
from paddock_runner.store.files import make_folder, require_space
from paddock_runner.store.manifests import StoredManifest, pin_name
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.place import place
from paddock_runner.store.split import check_part
from paddock_runner.store.store import Store
from paddock_runner.store.writer import Check

FILES_AT_ONCE = 2
"""Files beside each other, each with connections of its own: a small one does not wait behind 40 GB."""

MAX_NAME_CHARACTERS = 1024
GGUF_KINDS = ("model", "adapter", "projector")
_TRIES = 2


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest in the store, and what its source said of it: see FetchPlan. `written`: the fetch put it there."""

    stored: StoredManifest
    revision: str = ""
    validator: str = ""
    written: bool = False


async def fetch(
    store: Store,
    source: Source,
    transport: Transport,
    progress: LayerProgress,
    validator: str = "",
    *,
    named: bool = True,
) -> Fetched:
    """Bring the model of `source` into the store. Nothing is fetched while the `validator` of an earlier fetch holds.

    `named`: it gets the source's name, else its manifest is written under its pin alone.
    Raises whatever `source.plan`, `download` and `place` raise; InvalidModelError for a plan that contradicts itself,
    NoSpaceError before the first byte if not all of it fits.
    """
    plan = await source.plan(transport)
    stored = None
    if validator and validator == plan.validator:
        with contextlib.suppress(NotFoundError):
            stored = await asyncio.to_thread(store.manifest, plan.name)
    if stored is not None and plan.manifest is not None and stored.data != plan.manifest:
        # Somebody gave the name to another model meanwhile.
        stored = None
    written = stored is None
    if stored is None:
        check_plan(plan)
        stored = await _carry_out(store, plan, transport, progress, named)
    return Fetched(stored, plan.revision, plan.validator, written)


async def _carry_out(
    store: Store, plan: FetchPlan, transport: Transport, progress: LayerProgress, named: bool
) -> StoredManifest:
    make_folder(store.path)
    for _ in range(_TRIES):
        require_space(store.path, _missing(store, plan.files), f"the model {plan.name}")
        blobs = await _bring_all(store, plan.files, transport, progress)
        if (stored := await asyncio.to_thread(_write, store, plan, blobs, named)) is not None:
            return stored
    raise NotFoundError(f"blobs of {plan.name} disappeared while they were given their name")


def check_plan(plan: FetchPlan) -> None:
    """Refuse a plan that is too large or says two things. Raises InvalidModelError that names the file."""
    if len(plan.files) > MAX_LAYERS + 1:
        raise InvalidModelError(f"the source names {len(plan.files)} files, the limit is {MAX_LAYERS}")
    sizes: dict[Digest, int] = {}
    for number, file in enumerate(plan.files):
        where = f"files[{number}] ({_shown(file)})"
        _check_file(file, where)
        if file.digest is not None and file.size is not None and sizes.setdefault(file.digest, file.size) != file.size:
            raise InvalidModelError(
                f"{where}: {file.digest} is listed with the sizes {sizes[file.digest]} and {file.size}"
            )
    if (plan.size or 0) > MAX_BLOB_BYTES:
        raise InvalidModelError(f"the files have {plan.size} bytes together, the limit is {MAX_BLOB_BYTES}")
    if plan.manifest is not None:
        _check_manifest(plan, plan.manifest)


def _shown(file: PlannedFile) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in file.name[:200])


def _check_file(file: PlannedFile, where: str) -> None:
    parts = file.name.split("/")
    if not 0 < len(file.name) <= MAX_NAME_CHARACTERS or not file.name.isprintable() or {"", ".", ".."} & set(parts):
        raise InvalidModelError(
            f"{where}: the name must be a relative path of at most {MAX_NAME_CHARACTERS} characters"
        )
    if "\\" in file.name:
        raise InvalidModelError(f"{where}: the name must not hold a backslash")
    if file.size is not None and not 0 <= file.size <= MAX_BLOB_BYTES:
        raise InvalidModelError(f"{where}: the size is {file.size} bytes, it must be from 0 to {MAX_BLOB_BYTES}")
    if isinstance(file.where, Inline) and file.size not in (None, len(file.where.data)):
        raise InvalidModelError(f"{where}: the size is {file.size} bytes, but it has {len(file.where.data)}")
    if not file.kind and not file.media_type:
        raise InvalidModelError(f"{where}: a file of no known kind")


def _check_manifest(plan: FetchPlan, data: bytes) -> None:
    """What the manifest lists and what is fetched must be the same, to the byte."""
    try:
        wanted = {item.digest: item.size for item in parse_manifest(data).blobs}
    except InvalidManifestError as error:
        raise InvalidModelError(f"the manifest of {plan.name}: {error}") from None
    for lost in sorted(wanted.keys() - {file.digest for file in plan.files}):
        raise InvalidModelError(f"the manifest of {plan.name} lists {lost}, which is not among its files")
    for file in plan.files:
        told = None if file.digest is None else wanted.get(file.digest)
        if told is None or told != file.size:
            raise InvalidModelError(
                f"the manifest of {plan.name} has {told} bytes of {file.digest}, but {file.size} are planned"
            )


def _missing(store: Store, files: Sequence[PlannedFile]) -> int:
    """Bytes that are to be written, as far as sizes are known; a link needs none."""
    wanted: dict[object, int] = {}
    for number, file in enumerate(files):
        if not isinstance(file.where, Local) or file.where.placement == "Copy":
            wanted[file.digest or number] = file.size or 0
    return sum(_rest(store, key, size) for key, size in wanted.items())


def _rest(store: Store, digest: object, size: int) -> int:
    if not isinstance(digest, Digest):
        return size
    if store.has_verified(digest):
        return 0
    try:
        # What an earlier attempt left is on the disk already.
        return max(0, size - store.partial_path(digest).stat().st_blocks * 512)
    except OSError:
        return size


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


def _write(store: Store, plan: FetchPlan, blobs: Sequence[Blob], named: bool) -> StoredManifest | None:
    """Write the manifest; None if a collector removed bytes, which nobody referenced, a moment ago."""
    layers = [_layer(file, blob) for file, blob in zip(plan.files, blobs, strict=True)]
    with store.writing():
        try:
            store.require_blobs(layers)
        except NotFoundError:
            return None
        if plan.manifest is not None:
            name = plan.name if named else pin_name(Digest.of(plan.manifest))
            return store.write_manifest(name, plan.manifest)
        return assemble(store, plan.name if named else None, [item for item in layers if item.kind != "config"])


def _layer(file: PlannedFile, blob: Blob) -> Layer:
    if file.digest not in (None, blob.digest):
        raise DigestMismatchError(file.name[:200], file.digest, blob.digest)
    if file.size not in (None, blob.size):
        raise SizeMismatchError(file.name[:200], file.size or 0, blob.size)
    return Layer(file.media_type, blob.digest, blob.size) if not file.kind else layer(file.kind, blob.digest, blob.size)
