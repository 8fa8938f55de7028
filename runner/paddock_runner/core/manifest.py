"""Manifests and configuration blobs of Ollama's format: strict, bounded parsing and deterministic building.

Used by the store and by sources. Pure: bytes in, values out. `strict_json` serves every other JSON layer too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.strict_json import JSONProblem, loads

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_PREFIX = "application/vnd.ollama.image."

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_CONFIG_BYTES = 1024 * 1024
MAX_LAYERS = 4096
MAX_BLOB_BYTES = 1 << 50
MAX_JSON_DEPTH = 32

_MEDIA_TYPE = re.compile(r"[ -~]{1,255}")


class InvalidManifestError(ValueError):
    """A manifest, configuration or JSON layer breaks the format; the message names the field."""


def strict_json(data: bytes, limit: int) -> Any:
    """Decode strict JSON of at most `limit` bytes and 32 levels. Raises InvalidManifestError."""
    if len(data) > limit:
        raise InvalidManifestError(f"has {len(data)} bytes, the limit is {limit}")
    try:
        return loads(data, max_depth=MAX_JSON_DEPTH)
    except JSONProblem as error:
        raise InvalidManifestError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a manifest; `size` in bytes."""

    media_type: str
    digest: Digest
    size: int

    @property
    def kind(self) -> str:
        """The word after Ollama's media type prefix (`model`, `template`, …), or '' for a foreign layer."""
        return self.media_type.removeprefix(LAYER_PREFIX) if self.media_type.startswith(LAYER_PREFIX) else ""


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Layer
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers)

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """Everything the manifest references: the layers, then the configuration."""
        return (*self.layers, self.config)

    def of_kind(self, *kinds: str) -> tuple[Layer, ...]:
        """The layers of these kinds, in order."""
        return tuple(layer for layer in self.layers if layer.kind in kinds)


def layer(kind: str, digest: Digest, size: int) -> Layer:
    """A layer of Ollama's media type for `kind`."""
    return Layer(LAYER_PREFIX + kind, digest, size)


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest. Raises InvalidManifestError that names the field; nothing is guessed or repaired.

    Layers of unknown media types are kept; a blob that is listed twice must have one size.
    """
    value = strict_json(data, MAX_MANIFEST_BYTES)
    if not isinstance(value, dict):
        raise InvalidManifestError("the manifest must be a JSON object")
    if value.get("schemaVersion") != 2:
        raise InvalidManifestError("schemaVersion must be 2")
    if value.get("mediaType", MANIFEST_TYPE) not in (MANIFEST_TYPE, OCI_MANIFEST_TYPE):
        raise InvalidManifestError("mediaType is not that of an image manifest")
    if "manifests" in value:
        raise InvalidManifestError("has both layers and manifests, or is an index")
    layers = value.get("layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        raise InvalidManifestError(f"layers must be a list of 1 to {MAX_LAYERS}")
    parsed = tuple(_parse_layer(item, f"layers[{index}]") for index, item in enumerate(layers))
    manifest = Manifest(_parse_layer(value.get("config"), "config"), parsed)
    _check_sizes(manifest)
    return manifest


def _check_sizes(manifest: Manifest) -> None:
    sizes: dict[Digest, int] = {}
    for item in manifest.blobs:
        if sizes.setdefault(item.digest, item.size) != item.size:
            raise InvalidManifestError(f"{item.digest} is listed with the sizes {sizes[item.digest]} and {item.size}")
    if sum(sizes.values()) > MAX_BLOB_BYTES:
        raise InvalidManifestError(f"the blobs have {sum(sizes.values())} bytes together, limit {MAX_BLOB_BYTES}")


def _parse_layer(value: object, where: str) -> Layer:
    if not isinstance(value, dict):
        raise InvalidManifestError(f"{where} must be an object")
    media_type, size = value.get("mediaType"), value.get("size")
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidManifestError(f"{where}.mediaType must be 1 to 255 printable ASCII characters")
    if type(size) is not int or not 0 <= size <= MAX_BLOB_BYTES:
        raise InvalidManifestError(f"{where}.size must be an integer from 0 to {MAX_BLOB_BYTES}")
    try:
        return Layer(media_type, Digest.parse(value.get("digest")), size)
    except InvalidDigestError as error:
        raise InvalidManifestError(f"{where}.{error}") from None


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _layer_json(item: Layer) -> dict[str, Any]:
    return {"mediaType": item.media_type, "digest": str(item.digest), "size": item.size}


def build_manifest(config: Layer, layers: Iterable[Layer]) -> bytes:
    """The manifest's bytes; equal input gives equal bytes, hence an equal digest."""
    return _encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _layer_json(config),
            "layers": [_layer_json(item) for item in layers],
        }
    )


def parse_config(data: bytes) -> dict[str, Any]:
    """Read the configuration JSON. Raises InvalidManifestError if it is not a JSON object within 1 MiB."""
    value = strict_json(data, MAX_CONFIG_BYTES)
    if not isinstance(value, dict):
        raise InvalidManifestError("the configuration must be a JSON object")
    return value


def build_config(values: Mapping[str, object]) -> bytes:
    """The configuration's bytes: Ollama's constant fields plus `values`; absent (None or empty) values are left out."""
    kept = {key: value for key, value in values.items() if value not in (None, "", [], ())}
    return _encode({**kept, "architecture": "amd64", "os": "linux"})
