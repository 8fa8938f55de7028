"""A stored model as files and values: what a runner loads, what `show` and the pull result tell.

Called by the runner's front and engine supervisor (`load_model`), by `store.show` and by `commands.pull`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import InvalidManifestError, Layer, Manifest, parse_config, strict_json
from paddock_runner.store.errors import CacheUnusableError, InvalidGGUFError, StoreError
from paddock_runner.store.files import read_bounded
from paddock_runner.store.gguf import GGUFHeader, capabilities, details, read_gguf
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.split import read_parts
from paddock_runner.store.store import Store

MAX_TEXT_BYTES = 1 << 20
MAX_LICENSE_BYTES = 4 << 20
MAX_PARAMS_BYTES = 1 << 18
MAX_MESSAGES_BYTES = 4 << 20
MAX_MESSAGES = 1024

ROLES = {
    "model": "model",
    "projector": "projector",
    "adapter": "adapter",
    "template": "template",
    "prompt": "template",
    "system": "system",
    "params": "params",
    "messages": "messages",
    "license": "license",
}
"""Layer kinds that this program uses, and the role each plays; other layers are carried along and ignored."""

LayerProgress = Callable[[Digest, int, int], None]
"""Called with a digest, the bytes done and the bytes in total."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Everything of one manifest. Sizes in bytes, `modified_at` in seconds since 1970, texts as stored.

    `split_paths` are all parts of a split model in order, `model_path` the first of them; a model of one file has none.
    `header` tells of all parts together.
    """

    digest: Digest
    model_path: Path
    split_paths: tuple[Path, ...]
    adapter_paths: tuple[Path, ...]
    projector_path: Path | None
    system: str | None
    template: str | None
    parameters: Mapping[str, Any]
    messages: tuple[Mapping[str, str], ...]
    license: str | None
    header: GGUFHeader
    details: Mapping[str, Any]
    config: Mapping[str, Any]
    size: int
    modified_at: float


def load_model(
    store: Store, which: Digest | StoredManifest, *, verify: bool = True, progress: LayerProgress | None = None
) -> ModelFiles:
    """Resolve a manifest (by digest, or one that was read already) to verified files and parsed layers.

    `verify` hashes every blob that has no fitting marker. Raises NotFoundError, DigestMismatchError, SizeMismatchError,
    NotGGUFError, TruncatedGGUFError, InvalidGGUFError, CacheUnusableError (a layer of text is malformed).
    """
    stored = which if isinstance(which, StoredManifest) else store.manifest_by_digest(which)
    if verify:
        verify_blobs(store, stored, progress)
    paths = model_paths(store, stored)
    header = read_parts(paths)
    if header.kind != "model":
        raise InvalidGGUFError("general.type", f"a model is needed, this is an {header.kind}")
    template = _text(store, stored, ("template", "prompt"), MAX_TEXT_BYTES)
    return ModelFiles(
        digest=stored.digest,
        model_path=paths[0],
        split_paths=paths if len(paths) > 1 else (),
        adapter_paths=_adapters(store, stored, header),
        projector_path=next((store.blob_path(item.digest) for item in stored.manifest.of_kind("projector")), None),
        system=_text(store, stored, ("system",), MAX_TEXT_BYTES),
        template=template,
        parameters=read_parameters(store, stored),
        messages=read_messages(store, stored),
        license="\n".join(read_licenses(store, stored)) or None,
        header=header,
        details={**details(header), "capabilities": capabilities(header, template)},
        config=read_config(store, stored),
        size=stored.manifest.size,
        modified_at=stored.modified_at,
    )


def verify_blobs(store: Store, stored: StoredManifest, progress: LayerProgress | None = None) -> None:
    """Verify every blob that the manifest uses, and its declared size. Raises NotFoundError, DigestMismatchError."""
    for layer in used_blobs(stored.manifest):
        tell = None if progress is None else _bound(progress, layer.digest)
        size = store.verify_blob(layer.digest, tell)
        if size != layer.size:
            raise CacheUnusableError(
                f"the manifest says that {layer.digest} has {layer.size} bytes, but it has {size}; pull it again"
            )


def used_blobs(manifest: Manifest) -> tuple[Layer, ...]:
    """The blobs that this program uses: layers of known kinds and the configuration."""
    return tuple(layer for layer in manifest.blobs if layer is manifest.config or layer.kind in ROLES)


def _bound(progress: LayerProgress, digest: Digest) -> Callable[[int, int], None]:
    return lambda done, total: progress(digest, done, total)


def model_paths(store: Store, stored: StoredManifest) -> tuple[Path, ...]:
    """The files of the model itself: one, or all parts of a split one in order. Raises CacheUnusableError for none."""
    paths = tuple(store.blob_path(layer.digest) for layer in stored.manifest.of_kind("model"))
    if not paths:
        raise CacheUnusableError(f"the manifest of {str(stored.name)!r} has no model layer; create or pull it again")
    return paths


def _adapters(store: Store, stored: StoredManifest, header: GGUFHeader) -> tuple[Path, ...]:
    paths = tuple(store.blob_path(layer.digest) for layer in stored.manifest.of_kind("adapter"))
    for path in paths:
        check_adapter(read_gguf(path), header)
    return paths


def check_adapter(adapter: GGUFHeader, model: GGUFHeader) -> None:
    """Raise InvalidGGUFError unless `adapter` is one, made for the model's architecture."""
    if adapter.kind != "adapter":
        raise InvalidGGUFError("general.type", f"an adapter is needed, this is a {adapter.kind}")
    if adapter.architecture != model.architecture:
        raise InvalidGGUFError(
            "general.architecture", f"the adapter is for {adapter.architecture}, the model is {model.architecture}"
        )


def _read(store: Store, layer: Layer, limit: int) -> bytes:
    data = read_bounded(store.blob_path(layer.digest), limit)
    if Digest.of(data) != layer.digest:
        raise CacheUnusableError(f"the {layer.kind} layer {layer.digest} is corrupt; create or pull the model again")
    return data


def _decoded(store: Store, layer: Layer, limit: int) -> str:
    try:
        return _read(store, layer, limit).decode("utf-8")
    except UnicodeDecodeError:
        raise CacheUnusableError(f"the {layer.kind} layer {layer.digest} is not UTF-8 text") from None


def _text(store: Store, stored: StoredManifest, kinds: tuple[str, ...], limit: int) -> str | None:
    layers = stored.manifest.of_kind(*kinds)
    return _decoded(store, layers[-1], limit) if layers else None


def read_licenses(store: Store, stored: StoredManifest) -> list[str]:
    """The texts of all license layers, in order."""
    return [_decoded(store, layer, MAX_LICENSE_BYTES) for layer in stored.manifest.of_kind("license")]


def _json(store: Store, layer: Layer, limit: int) -> Any:
    try:
        return strict_json(_read(store, layer, limit), limit)
    except InvalidManifestError as error:
        raise CacheUnusableError(f"the {layer.kind} layer {layer.digest}: {error}") from None


def read_parameters(store: Store, stored: StoredManifest) -> dict[str, Any]:
    """The JSON object of the params layer; empty without one. Values are not judged here."""
    layers = stored.manifest.of_kind("params")
    value = _json(store, layers[-1], MAX_PARAMS_BYTES) if layers else {}
    if not isinstance(value, dict):
        raise CacheUnusableError("the params layer must be a JSON object")
    return value


def read_messages(store: Store, stored: StoredManifest) -> tuple[Mapping[str, str], ...]:
    """The conversation of the messages layer: objects with `role` and `content`."""
    layers = stored.manifest.of_kind("messages")
    value = _json(store, layers[-1], MAX_MESSAGES_BYTES) if layers else []
    if not isinstance(value, list) or len(value) > MAX_MESSAGES:
        raise CacheUnusableError(f"the messages layer must be a JSON list of at most {MAX_MESSAGES} messages")
    return tuple(_message(item) for item in value)


def _message(item: object) -> Mapping[str, str]:
    fields = item if isinstance(item, dict) else {}
    role, content = fields.get("role"), fields.get("content", "")
    if not isinstance(role, str) or not isinstance(content, str):
        raise CacheUnusableError("the messages layer must hold objects with the texts role and content")
    return {"role": role, "content": content}


def read_config(store: Store, stored: StoredManifest) -> dict[str, Any]:
    """The configuration JSON; empty when the blob is missing or malformed, since nothing depends on it."""
    try:
        return parse_config(_read(store, stored.manifest.config, MAX_TEXT_BYTES))
    except (StoreError, InvalidManifestError):
        return {}
