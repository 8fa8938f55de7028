"""What stands in an OCI image layout of models: `oci-layout`, `index.json`, manifests.

Read strictly, every size bounded. Called by `store.bundle` and `store.bundle_import`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from paddock_runner.core.collection import MADE_HOSTS, require_foreign
from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import (
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    OCI_MANIFEST_TYPE,
    InvalidManifestError,
    Layer,
    Manifest,
    parse_manifest,
    strict_json,
)
from paddock_runner.core.names import InvalidNameError, ModelName
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.tar_stream import InvalidBundleError

NAME_ANNOTATION = "org.opencontainers.image.ref.name"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYOUT = "oci-layout"
INDEX = "index.json"
MAX_LAYOUT_BYTES = 4096
MAX_MODELS = 1024

_LAYOUT_VERSION = "1.0.0"
_BLOBS = "blobs/sha256/"


def blob_path(digest: Digest) -> str:
    """Where a blob lies in a layout."""
    return _BLOBS + digest.hex


def digest_of(path: str) -> Digest | None:
    """The blob that lies at `path`, None if that is no path of a blob."""
    try:
        return Digest(path.removeprefix(_BLOBS)) if path.startswith(_BLOBS) else None
    except InvalidDigestError:
        return None


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode()


def layout_file() -> bytes:
    """The content of `oci-layout`."""
    return _encode({"imageLayoutVersion": _LAYOUT_VERSION})


def index_file(models: Sequence[StoredManifest]) -> bytes:
    """The content of `index.json`: a descriptor per model."""
    return _encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [_descriptor(item) for item in models]})


def _descriptor(stored: StoredManifest) -> dict[str, Any]:
    media_type = json.loads(stored.data).get("mediaType", MANIFEST_TYPE)
    return {
        "mediaType": media_type,
        "digest": str(stored.digest),
        "size": len(stored.data),
        "annotations": {NAME_ANNOTATION: stored.name.full},
    }


def check_layout(data: bytes) -> None:
    """Raises InvalidBundleError unless `oci-layout` is of the version that is known."""
    value = _json(data, LAYOUT)
    if value.get("imageLayoutVersion") != _LAYOUT_VERSION:
        raise InvalidBundleError(f"{LAYOUT}: imageLayoutVersion must be {_LAYOUT_VERSION}")


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = strict_json(data, MAX_MANIFEST_BYTES)
    except InvalidManifestError as error:
        raise InvalidBundleError(f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise InvalidBundleError(f"{what} must be a JSON object")
    return value


def parse_model(data: bytes, digest: Digest) -> Manifest:
    """A manifest of the bundle. Raises InvalidBundleError, also if it has no model layer of Ollama's media types."""
    try:
        manifest = parse_manifest(data)
    except InvalidManifestError as error:
        raise InvalidBundleError(f"the manifest {digest}: {error}") from None
    if not manifest.of_kind("model"):
        raise InvalidBundleError(f"the manifest {digest} has no model layer of Ollama's media types")
    return manifest


def parse_index(data: bytes) -> Iterator[tuple[ModelName, Layer]]:
    """The names of `index.json` with the manifest of each. Raises InvalidBundleError that names the entry."""
    value = _json(data, INDEX)
    entries = value.get("manifests")
    if value.get("schemaVersion") != 2 or not isinstance(entries, list) or not 1 <= len(entries) <= MAX_MODELS:
        raise InvalidBundleError(f"{INDEX}: schemaVersion must be 2 and manifests a list of 1 to {MAX_MODELS}")
    for number, entry in enumerate(entries):
        yield _parse_descriptor(entry, f"{INDEX}: manifests[{number}]")


def _parse_descriptor(entry: object, where: str) -> tuple[ModelName, Layer]:
    item = entry if isinstance(entry, dict) else {}
    media_type, size = item.get("mediaType"), item.get("size")
    if media_type not in (MANIFEST_TYPE, OCI_MANIFEST_TYPE):
        raise InvalidBundleError(f"{where}.mediaType must be {MANIFEST_TYPE} or {OCI_MANIFEST_TYPE}")
    if type(size) is not int or not 1 <= size <= MAX_MANIFEST_BYTES:
        raise InvalidBundleError(f"{where}.size must be an integer from 1 to {MAX_MANIFEST_BYTES}")
    annotations = item.get("annotations")
    text = annotations.get(NAME_ANNOTATION) if isinstance(annotations, dict) else None
    try:
        return _parse_name(text), Layer(media_type, Digest.parse(item.get("digest")), size)
    except (InvalidNameError, InvalidDigestError) as error:
        raise InvalidBundleError(f"{where}: {error}") from None


def _parse_name(text: object) -> ModelName:
    if not isinstance(text, str):
        raise InvalidNameError(f"the annotation {NAME_ANNOTATION} with the model's name is missing")
    return require_foreign(ModelName.parse(text), MADE_HOSTS)
