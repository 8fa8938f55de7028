"""`paddock-runner convert`: turn a model of F32, F16 or BF16 into a quantized one, once per cache.

Called by `paddock_runner.__main__`, which an executor starts as a child or a Job (cache read-write, no credentials, no
network). The result is kept under a name made of the source's digest, the type and the version of llama.cpp's binding,
so the second request finds it. Exit codes: 0 a result (with --termination-message: any verdict), 1 an error, 75 retry.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from paddock_runner import logs
from paddock_runner.commands.events import Progress, conclude, read_input
from paddock_runner.commands.pull import MAX_REQUEST_BYTES, failed, result_of, stop_now
from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import InvalidManifestError, strict_json
from paddock_runner.core.quantization import Conversion, InvalidQuantizationError, check_source, parse_type
from paddock_runner.engine.converting import run_quantizer
from paddock_runner.parent import die_with_parent
from paddock_runner.store.create import replace_weights
from paddock_runner.store.errors import InvalidModelError, StoreError, from_os_error
from paddock_runner.store.files import make_folder, os_errors, remove_anything, require_space
from paddock_runner.store.gguf import check_gguf
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress, ModelFiles, load_model
from paddock_runner.store.place import place
from paddock_runner.store.store import Store


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    die_with_parent()
    logs.setup("converter")
    file: Path | None = arguments.termination_message
    signal.signal(signal.SIGTERM, lambda number, frame: stop_now(file))
    try:
        asked = _read_request(arguments.request)
        store = Store(arguments.models)
        stored = convert(store, asked, Progress())
        result = result_of(stored, load_model(store, stored), asked.name)
    except (StoreError, OSError) as failure:
        error = failure if isinstance(failure, StoreError) else from_os_error(failure, "using", arguments.models)
        return failed(error.reason, str(error), error.retryable, file)
    conclude({"event": "result", "result": result}, file)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock-runner convert", description="Quantize one model in the cache.")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--request", required=True, metavar="FILE|-|env:NAME", help='{"digest":"sha256:…","type":"…"}')
    parser.add_argument("--termination-message", type=Path, metavar="FILE", help="write the last event here")
    return parser


def _read_request(where: str) -> Conversion:
    try:
        request = strict_json(read_input(where, MAX_REQUEST_BYTES), MAX_REQUEST_BYTES)
        members = request if isinstance(request, dict) else {}
        return conversion(Digest.parse(members.get("digest")), members.get("type"))
    except OSError as error:
        raise InvalidModelError(f"the request cannot be read: {error}") from None
    except (InvalidManifestError, InvalidDigestError) as error:
        raise InvalidModelError(f"the request: {error}") from None


def conversion(source: Digest, file_type: object) -> Conversion:
    """The conversion of the manifest `source` by the library at hand. Raises InvalidModelError for an unknown type."""
    try:
        return Conversion(source, parse_type(file_type), version("llama-cpp-python"))
    except InvalidQuantizationError as error:
        raise InvalidModelError(str(error)) from None


def convert(store: Store, asked: Conversion, progress: LayerProgress) -> StoredManifest:
    """The converted model, pinned; made now unless the store holds it. Progress counts bytes of the source.

    Raises NotFoundError (no such source), InvalidModelError (it cannot become this type, or llama.cpp refuses it),
    NoSpaceError, CacheUnusableError.
    """
    with store.digest_lock(asked.key):
        stored = _held(store, asked) or _converted(store, asked, progress)
        with store.writing():
            store.require_blobs(stored.manifest.blobs)
            store.pin(stored.digest, stored.data)
        return stored


def _held(store: Store, asked: Conversion) -> StoredManifest | None:
    try:
        stored = store.manifest(asked.name)
        load_model(store, stored)
    except StoreError:
        return None
    return stored


def _converted(store: Store, asked: Conversion, progress: LayerProgress) -> StoredManifest:
    source = store.manifest_by_digest(asked.source)
    files = load_model(store, source, progress=progress)
    try:
        check_source(asked.type, (tensor.type for tensor in files.header.tensors))
    except InvalidQuantizationError as error:
        raise InvalidModelError(str(error)) from None
    scratch = store.working_folder(asked.key)
    # Left behind by a run that was killed, or planted; the lock says that nobody uses it.
    with os_errors("deleting", scratch):
        remove_anything(scratch)
    make_folder(scratch)
    try:
        made = _quantize(files, scratch, asked, progress)
        with store.writing():
            blob = place(store, made, None, "Link", check_gguf, None)
            return replace_weights(store, source, asked.name, blob)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _quantize(files: ModelFiles, scratch: Path, asked: Conversion, progress: LayerProgress) -> Path:
    target = scratch / "converted.gguf"
    # No type needs more room than the bytes that it rounds.
    total = sum(path.stat().st_size for path in _parts(files))
    require_space(scratch, total, "the converted model")
    run_quantizer(
        _named(files, scratch),
        target,
        asked.type,
        lambda done, steps: progress(asked.source, total * done // steps, total),
    )
    return target


def _parts(files: ModelFiles) -> tuple[Path, ...]:
    return files.split_paths or (files.model_path,)


def _named(files: ModelFiles, scratch: Path) -> Path:
    """The file to read. llama.cpp finds the other parts of a split model by their names, which blobs do not have."""
    parts = _parts(files)
    if len(parts) == 1:
        return parts[0]
    names = [scratch / f"part-{index:05}-of-{len(parts):05}.gguf" for index in range(1, len(parts) + 1)]
    for name, part in zip(names, parts, strict=True):
        os.symlink(part, name)
    return names[0]
