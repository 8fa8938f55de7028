"""Build a model from a Modelfile: layers, configuration and manifest through the verified write path.

Called by `commands.store` (create) and by sources that bring a bare GGUF file (`write_model`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import Layer, build_config, build_manifest, layer
from paddock_runner.core.modelfile import Modelfile
from paddock_runner.core.names import InvalidNameError, ModelName
from paddock_runner.store.blobs import Blob, Progress
from paddock_runner.store.errors import InvalidModelError, NotFoundError
from paddock_runner.store.gguf import GGUFHeader, capabilities, human_number, read_gguf
from paddock_runner.store.manifests import StoredManifest, pin_name
from paddock_runner.store.model import (
    MAX_LICENSE_BYTES,
    MAX_MESSAGES,
    MAX_TEXT_BYTES,
    check_adapter,
    read_config,
    verify_blobs,
)
from paddock_runner.store.place import place
from paddock_runner.store.split import check_part, join_headers, model_files, read_parts
from paddock_runner.store.store import Store

Emit = Callable[[Mapping[str, Any]], None]
"""Called with each status object, in the shape of Ollama's create."""

_TOLD_BYTES = 4 << 20
_ORDER = ("model", "projector", "adapter", "license", "template", "system", "params", "messages")


def _silent(status: Mapping[str, Any]) -> None:
    pass


@dataclass(slots=True)
class Draft:
    """A model that is being put together: its layers by kind, and what the configuration will say."""

    store: Store
    emit: Emit = _silent
    layers: dict[str, list[Layer]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    header: GGUFHeader | None = None
    template: str | None = None

    def add(self, kind: str, data: bytes, limit: int, replace: bool = True) -> None:
        """Write `data` as a layer of `kind`, in the place of earlier ones or after them."""
        if len(data) > limit:
            raise InvalidModelError(f"{kind.upper()} has {len(data)} bytes, the limit is {limit}")
        blob = self.store.write_blob(io.BytesIO(data), expected_size=len(data))
        self._note(blob.created, str(blob.digest))
        kept = [] if replace else self.layers.get(kind, [])
        self.layers[kind] = [*kept, layer(kind, blob.digest, blob.size)]

    def add_gguf(self, path: Path, expected: str | None = None) -> None:
        """Copy a GGUF file into the store as the layer that its header says it is; `expected` insists on a kind.

        The parts of a split model come one after the other; `use_weights` looks whether they are complete.
        """
        self.emit({"status": "parsing GGUF"})
        header = read_gguf(path, part=True)
        kind = header.kind
        if expected not in (None, kind):
            raise InvalidModelError(f"{path.name} is a {kind}, but it is used as an {expected}")
        if kind == "model" and header.part[0] == 0 and "model" in self.layers:
            raise InvalidModelError(f"only one FROM may be a model; {path.name} is another one")
        # Not a link: who goes on writing the file must not damage the model.
        blob = place(self.store, path, None, "Copy", check_part, self._copying(path.name))
        self._note(blob.created, str(blob.digest))
        self.layers.setdefault(kind, []).append(layer(kind, blob.digest, blob.size))
        if kind == "model":
            self.header = None

    def use_weights(self) -> None:
        """Take the configuration from the headers of the model layers; nothing happens without one.

        Raises InvalidGGUFError if they are not one model, whole or all its parts in order.
        """
        paths = [self.store.blob_path(item.digest) for item in self.layers.get("model", [])]
        if paths:
            self.use_header(read_parts(paths))

    def use_header(self, header: GGUFHeader) -> None:
        """Take the configuration from a model's header."""
        self.header = header
        self.config |= {
            "model_format": "gguf",
            "model_family": header.architecture,
            "model_families": [header.architecture],
            "model_type": human_number(header.parameter_count),
            "file_type": header.quantization,
            "context_length": header.own("context_length"),
            "embedding_length": header.own("embedding_length"),
            "capabilities": capabilities(header),
        }

    def inherit(self, name: ModelName) -> None:
        """Begin with the layers and the configuration of a model in the store."""
        if "model" in self.layers:
            raise InvalidModelError("only one FROM may be a model")
        self.take(self.store.manifest(name))

    def take(self, base: StoredManifest) -> None:
        """Begin with the layers and the configuration of a manifest; its blobs are verified."""
        verify_blobs(self.store, base)
        for item in base.manifest.layers:
            self.layers.setdefault(item.kind, []).append(item)
        self.use_weights()
        self.config |= read_config(self.store, base)

    def _copying(self, what: str) -> Progress:
        told = 0

        def tell(done: int, total: int) -> None:
            nonlocal told
            if done - told >= max(_TOLD_BYTES, total // 200) or done == total:
                told = done
                self.emit({"status": f"copying {what}", "completed": done, "total": total})

        return tell

    def _note(self, created: bool, digest: str) -> None:
        self.emit({"status": f"{'creating new' if created else 'using existing'} layer {digest}"})

    def write(self, name: ModelName | None) -> StoredManifest:
        """Write configuration and manifest (without a name: its pin). The same content always gives the same digest."""
        self.emit({"status": "writing manifest"})
        data = build_config(self.config)
        config = self.store.write_blob(io.BytesIO(data), expected_size=len(data))
        known = [item for kind in _ORDER for item in self.layers.get(kind, [])]
        other = [item for kind, items in self.layers.items() if kind not in _ORDER for item in items]
        config_layer = Layer("application/vnd.docker.container.image.v1+json", config.digest, config.size)
        manifest = build_manifest(config_layer, [*known, *other])
        return self.store.write_manifest(name or pin_name(Digest.of(manifest)), manifest)


def write_model(store: Store, name: ModelName, model: Layer, header: GGUFHeader) -> StoredManifest:
    """Write the manifest of a bare GGUF file whose blob is in the store already. Raises InvalidGGUFError for a part."""
    draft = Draft(store, layers={"model": [model]})
    draft.use_header(join_headers([header]))
    return draft.write(name)


def assemble(store: Store, name: ModelName | None, layers: Iterable[Layer]) -> StoredManifest:
    """Write the manifest of blobs that are in the store already, the configuration made from their GGUF headers.

    Without a name it is written under its pin alone.
    Several layers of the kind model are the parts of one split model, in order. Raises InvalidModelError (no model
    among them), InvalidGGUFError (parts that do not fit, an adapter for another architecture).
    """
    draft = Draft(store)
    for item in layers:
        draft.layers.setdefault(item.kind, []).append(item)
    draft.use_weights()
    if draft.header is None:
        raise InvalidModelError("there is no GGUF model among the files")
    for item in draft.layers.get("adapter", []):
        check_adapter(read_gguf(store.blob_path(item.digest)), draft.header)
    return draft.write(name)


def replace_weights(store: Store, base: StoredManifest, name: ModelName, blob: Blob) -> StoredManifest:
    """Write the model `name`: `base` with the GGUF model `blob` in the place of its own weights."""
    draft = Draft(store)
    draft.take(base)
    draft.layers["model"] = [layer("model", blob.digest, blob.size)]
    draft.use_weights()
    return draft.write(name)


def create(store: Store, name: ModelName, modelfile: Modelfile, folder: Path, emit: Emit = _silent) -> StoredManifest:
    """Make the model `name` as `modelfile` says; paths in it are relative to `folder`.

    Raises NotFoundError (no such file or model), InvalidModelError, NotGGUFError, TruncatedGGUFError,
    InvalidGGUFError, NoSpaceError, CacheUnusableError. Nothing appears under `name` unless all of it is written.
    """
    with store.writing():
        draft = Draft(store, emit)
        for value in modelfile.froms:
            _from(draft, value, folder)
        if draft.header is None:
            draft.use_weights()
        if draft.header is None:
            raise InvalidModelError("FROM names no model: one GGUF model or one stored model is needed")
        for value in modelfile.adapters:
            _adapter(draft, _resolve(value, folder), draft.header)
        _texts(draft, modelfile)
        _lists(draft, modelfile)
        return draft.write(name)


def _resolve(value: str, folder: Path) -> Path:
    path = folder / Path(value).expanduser()
    if not path.exists():
        raise NotFoundError(f"{value} does not exist (looked for {path})")
    return path


def _real(path: Path) -> Path:
    """The file itself: a person may well give a link to it."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise NotFoundError(f"{path} leads nowhere: {error}") from None


def _from(draft: Draft, value: str, folder: Path) -> None:
    looks_like_path = value.startswith(("/", "./", "../", "~")) or value.lower().endswith(".gguf")
    if looks_like_path or (folder / value).is_file():
        for path in model_files(_resolve(value, folder)):
            draft.add_gguf(_real(path))
        return
    try:
        name = ModelName.parse(value)
    except InvalidNameError as error:
        raise InvalidModelError(f"FROM {value[:200]}: no such file, and {error}") from None
    draft.inherit(name)


def _adapter(draft: Draft, path: Path, header: GGUFHeader) -> None:
    if path.is_dir():
        raise InvalidModelError(f"ADAPTER: {path.name} is a folder; give a GGUF file")
    check_adapter(read_gguf(path), header)
    draft.add_gguf(_real(path), "adapter")


def _texts(draft: Draft, modelfile: Modelfile) -> None:
    if modelfile.template is not None:
        draft.add("template", modelfile.template.encode(), MAX_TEXT_BYTES)
        if draft.header is not None:
            draft.config["capabilities"] = capabilities(draft.header, modelfile.template)
    if modelfile.system:
        draft.add("system", modelfile.system.encode(), MAX_TEXT_BYTES)
    for text in modelfile.licenses:
        draft.add("license", text.encode(), MAX_LICENSE_BYTES, replace=False)
    for key in ("renderer", "parser", "requires"):
        if value := getattr(modelfile, key):
            draft.config[key] = value


def _lists(draft: Draft, modelfile: Modelfile) -> None:
    if modelfile.parameters:
        inherited = _inherited_parameters(draft)
        draft.add("params", _json({**inherited, **modelfile.parameters}), MAX_TEXT_BYTES)
    if len(modelfile.messages) > MAX_MESSAGES:
        raise InvalidModelError(f"MESSAGE: {len(modelfile.messages)} messages, the limit is {MAX_MESSAGES}")
    if modelfile.messages:
        messages = [{"role": role, "content": text} for role, text in modelfile.messages]
        draft.add("messages", _json(messages), 4 * MAX_TEXT_BYTES)


def _inherited_parameters(draft: Draft) -> dict[str, Any]:
    layers = draft.layers.get("params", [])
    return dict(json.loads(draft.store.blob_path(layers[-1].digest).read_bytes())) if layers else {}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
