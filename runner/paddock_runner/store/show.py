"""Ollama's answers about stored models: entries of `/api/tags`, and `/api/show`.

Called by `commands.store`. Values are as stored; nothing is written.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import Layer
from paddock_runner.core.modelfile import Modelfile, format_modelfile, format_parameters
from paddock_runner.core.names import ModelName
from paddock_runner.store.errors import StoreError
from paddock_runner.store.gguf import GGUFHeader, capabilities, read_gguf
from paddock_runner.store.manifests import StoredManifest, pin_name
from paddock_runner.store.model import ModelFiles, load_model, model_paths, read_config
from paddock_runner.store.store import Store

_SHOWN_ELEMENTS = 5
_LAST_SECOND = 253402300799.0
"""Of the year 9999."""
_HIDDEN_KEYS = ("general.name", "tokenizer.chat_template")


def rfc3339(seconds: float) -> str:
    """A time in seconds since 1970 as Ollama writes it."""
    # Some file systems keep times that no calendar has.
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), UTC).isoformat().replace("+00:00", "Z")


def tags(store: Store) -> dict[str, Any]:
    """The body of `/api/tags`: all models, newest first; models that cannot be read are left out."""
    return {"models": [_entry(store, stored) for stored in store.list()]}


def _entry(store: Store, stored: StoredManifest) -> dict[str, Any]:
    config = read_config(store, stored)
    return {
        "name": str(stored.name),
        "model": str(stored.name),
        "modified_at": rfc3339(stored.modified_at),
        "size": stored.manifest.size,
        "digest": stored.digest.hex,
        "details": _details(config),
        "capabilities": config.get("capabilities") or _own_capabilities(store, stored),
    }


def _details(config: dict[str, Any]) -> dict[str, Any]:
    details = {
        "parent_model": "",
        "format": config.get("model_format", ""),
        "family": config.get("model_family", ""),
        "families": config.get("model_families"),
        "parameter_size": config.get("model_type", ""),
        "quantization_level": config.get("file_type", ""),
    }
    lengths = {key: config[key] for key in ("context_length", "embedding_length") if config.get(key)}
    return details | lengths


def _own_capabilities(store: Store, stored: StoredManifest) -> list[str]:
    """From the file's header, for manifests that other programs wrote; empty if it cannot be read."""
    try:
        return capabilities(read_gguf(model_paths(store, stored)[0], part=True))
    except (StoreError, OSError):
        return []


def show(store: Store, name: ModelName) -> dict[str, Any]:
    """The body of `/api/show`. Raises NotFoundError and what `load_model` raises."""
    stored = store.manifest(name)
    files = load_model(store, stored, verify=False)
    answer = {
        "license": files.license,
        "modelfile": format_modelfile(_modelfile(files)),
        "parameters": format_parameters(files.parameters) or None,
        "template": files.template or files.header.chat_template,
        "system": files.system,
        "messages": list(files.messages) or None,
        "requires": files.config.get("requires"),
    }
    return {key: value for key, value in answer.items() if value is not None} | {
        "details": _details({**_defaults(files.header), **files.config}),
        "model_info": _model_info(files.header),
        "tensors": [
            {"name": tensor.name, "type": tensor.type, "shape": list(tensor.dimensions)}
            for tensor in files.header.tensors
        ],
        "capabilities": files.details["capabilities"],
        "modified_at": rfc3339(files.modified_at),
    }


def facts(store: Store, name: ModelName) -> dict[str, Any]:
    """What a verbose `show` adds: the manifest and each of its blobs. Sizes in bytes. Raises NotFoundError.

    `verified` means that a marker fits; `links` counts the names that the file has on its volume.
    """
    stored = store.manifest(name)
    return {
        "digest": stored.digest.hex,
        "size": stored.manifest.size,
        "pinned": _is_pinned(store, stored.digest),
        "blobs": [_blob(store, layer) for layer in stored.manifest.blobs],
    }


def _is_pinned(store: Store, digest: Digest) -> bool:
    try:
        return store.manifest(pin_name(digest)).digest == digest
    except StoreError:
        return False


def _blob(store: Store, layer: Layer) -> dict[str, Any]:
    path = store.blob_path(layer.digest)
    found: dict[str, Any] = {"role": layer.kind or layer.media_type, "digest": str(layer.digest), "size": layer.size}
    try:
        status = path.lstat()
    except OSError:
        return {**found, "missing": True}
    return {
        **found,
        "path": str(path),
        "verified": store.has_verified(layer.digest),
        "links": status.st_nlink,
        "modified_at": rfc3339(status.st_mtime),
    }


def _defaults(header: GGUFHeader) -> dict[str, Any]:
    return {"model_format": "gguf", "model_family": header.architecture, "file_type": header.quantization}


def _modelfile(files: ModelFiles) -> Modelfile:
    config = files.config
    return Modelfile(
        froms=[
            *map(str, files.split_paths or (files.model_path,)),
            *([str(files.projector_path)] if files.projector_path else []),
        ],
        adapters=[str(path) for path in files.adapter_paths],
        parameters=dict(files.parameters),
        system=files.system,
        template=files.template,
        licenses=[files.license] if files.license else [],
        messages=[(message["role"], message["content"]) for message in files.messages],
        renderer=config.get("renderer"),
        parser=config.get("parser"),
        requires=config.get("requires"),
    )


def _model_info(header: GGUFHeader) -> dict[str, Any]:
    """The metadata; arrays of more than five elements are shown empty, numbers that JSON lacks as null."""
    info: dict[str, Any] = {"general.parameter_count": header.parameter_count}
    for key, length in header.array_lengths.items():
        if length > _SHOWN_ELEMENTS:
            info[key] = []
    for key, value in header.metadata.items():
        if key not in _HIDDEN_KEYS and key not in info:
            info[key] = [_plain(item) for item in value] if isinstance(value, tuple) else _plain(value)
    return dict(sorted(info.items()))


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
