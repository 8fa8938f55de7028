"""OCI documents and media types: which manifest of an index holds the model, and which of its layers is what.

Used by `sources.oci` and `sources.push_oci`. Pure: bytes in, values out. The kinds of layers that are known
are Ollama's, those of the CNCF ModelPack, those of Docker's "ai/" models, and plain files that their title names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import (
    LAYER_PREFIX,
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    OCI_MANIFEST_TYPE,
    InvalidManifestError,
    Manifest,
    parse_manifest,
    strict_json,
)
from paddock_runner.core.shards import is_gguf, parse_shard

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (OCI_MANIFEST_TYPE, MANIFEST_TYPE)
MAX_INDEX_ENTRIES = 64
MAX_INDEX_DEPTH = 2

_OLLAMA_KINDS = ("model", "projector", "adapter", "template", "system", "params", "messages", "license")
_CNCF = "application/vnd.cncf.model."
_DOCKER_AI = "application/vnd.docker.ai."
_TITLES = ("org.opencontainers.image.title", "org.cncf.model.filepath", "org.cnai.model.filepath")
_ATTESTATION = "vnd.docker.reference.type"
_MAX_SHOWN = 20
_GGUF_TYPES = frozenset(
    {f"{_DOCKER_AI}gguf.v3", f"{_CNCF}weight.v1.gguf", "application/gguf", "application/x-gguf", "application/vnd.gguf"}
)
_TEXT_TYPES = {f"{_DOCKER_AI}license": "license", f"{_DOCKER_AI}chat.template.jinja": "template"}
_MODEL_TYPES = (_CNCF, _DOCKER_AI, "application/vnd.ollama.", "application/vnd.cnai.model.")


class ArtifactError(ValueError):
    """No manifest of an index, or no layer of a manifest, can be chosen; the message lists what is there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A manifest of an index. `platform` is `os/architecture`, "" without one."""

    media_type: str
    digest: Digest
    size: int
    platform: str = ""
    artifact_type: str = ""
    attestation: bool = False

    def __str__(self) -> str:
        words = (f"sha256:{self.digest.short}", self.platform, self.artifact_type)
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest with the title of each layer ("" without one)."""

    manifest: Manifest
    artifact_type: str
    titles: tuple[str, ...]


def parse_document(data: bytes, content_type: str = "") -> Artifact | tuple[Entry, ...]:
    """Read a manifest, or an index as its entries.

    `content_type` is the header that came with it; a known type there must be the document's own. Raises
    InvalidManifestError.
    """
    value = strict_json(data, MAX_MANIFEST_BYTES)
    if not isinstance(value, dict):
        raise InvalidManifestError("the manifest must be a JSON object")
    sent = content_type.partition(";")[0].strip().lower()
    own = value.get("mediaType", sent)
    if sent in (*MANIFEST_TYPES, *INDEX_TYPES) and own != sent:
        raise InvalidManifestError(f"its mediaType is {str(own)[:80]!r}, but it was sent as {sent!r}")
    if own in INDEX_TYPES or ("manifests" in value and "layers" not in value):
        return _parse_index(value)
    return _parse_artifact(data, value)


def _parse_index(value: Mapping[str, Any]) -> tuple[Entry, ...]:
    if "layers" in value or "config" in value:
        raise InvalidManifestError("has both layers and manifests")
    if value.get("schemaVersion") != 2:
        raise InvalidManifestError("schemaVersion must be 2")
    if value.get("mediaType", INDEX_TYPES[0]) not in INDEX_TYPES:
        raise InvalidManifestError("mediaType is not that of an index")
    manifests = value.get("manifests")
    if not isinstance(manifests, list) or not 1 <= len(manifests) <= MAX_INDEX_ENTRIES:
        raise InvalidManifestError(f"manifests must be a list of 1 to {MAX_INDEX_ENTRIES}")
    return tuple(_parse_entry(item, f"manifests[{index}]") for index, item in enumerate(manifests))


def _parse_entry(value: object, where: str) -> Entry:
    item = _object(value, where)
    size = item.get("size")
    if type(size) is not int or not 1 <= size <= MAX_MANIFEST_BYTES:
        raise InvalidManifestError(f"{where}.size must be an integer from 1 to {MAX_MANIFEST_BYTES}")
    try:
        digest = Digest.parse(item.get("digest"))
    except InvalidDigestError as error:
        raise InvalidManifestError(f"{where}.{error}") from None
    platform = _object(item.get("platform", {}), f"{where}.platform")
    words = [_text(platform, key, f"{where}.platform") for key in ("os", "architecture")]
    return Entry(
        media_type=_text(item, "mediaType", where),
        digest=digest,
        size=size,
        platform="/".join(words) if any(words) else "",
        artifact_type=_text(item, "artifactType", where),
        attestation=_ATTESTATION in _object(item.get("annotations", {}), f"{where}.annotations"),
    )


def _parse_artifact(data: bytes, value: Mapping[str, Any]) -> Artifact:
    manifest = parse_manifest(data)
    titles = tuple(_title(item, f"layers[{index}]") for index, item in enumerate(value["layers"]))
    return Artifact(manifest, _text(value, "artifactType", "the manifest"), titles)


def _title(item: Mapping[str, Any], where: str) -> str:
    annotations = _object(item.get("annotations", {}), f"{where}.annotations")
    return next((title for key in _TITLES if (title := _text(annotations, key, where))), "")


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidManifestError(f"{where} must be an object")
    return value


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    text = value.get(key, "")
    if not isinstance(text, str) or len(text) > 255 or not (text.isprintable() and text.isascii()):
        raise InvalidManifestError(f"{where}.{key} must be at most 255 printable ASCII characters")
    return text


def choose(entries: Sequence[Entry], architecture: str) -> Entry:
    """The one entry of an index that holds the model; `architecture` is Go's word for this machine (`amd64`).

    In this order: the only one, the only one of a model's artifact type, the only one for this machine, the only one
    for no machine in particular. Raises ArtifactError that lists what is there.
    """
    real = [entry for entry in entries if not entry.attestation]
    rules = (
        real,
        [entry for entry in real if entry.artifact_type.startswith(_MODEL_TYPES)],
        [entry for entry in real if entry.platform == f"linux/{architecture}"],
        [entry for entry in real if entry.platform in ("", "unknown/unknown")],
    )
    for found in rules:
        if len(found) == 1:
            return found[0]
    raise ArtifactError(
        f"no entry of the index is the one for linux/{architecture}; name one by its digest: {_listed(map(str, real))}"
    )


@dataclass(frozen=True, slots=True)
class OciLayer:
    """A layer that is used; `kind` is Ollama's word, `title` the file's name as the manifest tells it."""

    kind: str
    media_type: str
    digest: Digest
    size: int
    title: str


def used_layers(artifact: Artifact) -> tuple[OciLayer, ...]:
    """The layers that make the model, the parts of a split GGUF in order of their titles.

    Raises ArtifactError if there is no GGUF file among them, or several models: the message says what is there.
    """
    found = [
        OciLayer(kind, item.media_type, item.digest, item.size, title)
        for item, title in zip(artifact.manifest.layers, artifact.titles, strict=True)
        if (kind := kind_of(item.media_type, title))
    ]
    models = [item for item in found if item.kind == "model"]
    if not models:
        raise _without_model(artifact)
    return (*_in_order(models), *(item for item in found if item.kind != "model"))


def _in_order(models: list[OciLayer]) -> list[OciLayer]:
    if len(models) == 1 or not any(item.title for item in models):
        return models
    parts = sorted(models, key=lambda item: item.title)
    shards = [parse_shard(item.title) for item in parts]
    expected = [(shards[0].stem, number, len(parts)) for number in range(1, len(parts) + 1)]
    if [(shard.stem, shard.number, shard.count) for shard in shards] != expected:
        raise ArtifactError(
            "it holds several GGUF files that are not the parts of one split model; push one model per artifact; "
            f"its GGUF files: {_listed([item.title or str(item.digest) for item in parts])}"
        )
    return parts


def kind_of(media_type: str, title: str) -> str:
    """What a layer is, in Ollama's words; "" for what is not used."""
    base = title.rpartition("/")[2].lower()
    if media_type.startswith(LAYER_PREFIX):
        word = media_type.removeprefix(LAYER_PREFIX)
        return "template" if word == "prompt" else word if word in _OLLAMA_KINDS else ""
    if media_type == f"{_DOCKER_AI}mmproj":
        return "projector"
    if media_type in _TEXT_TYPES:
        return _TEXT_TYPES[media_type]
    if _is_archive(media_type):
        return ""
    if media_type in _GGUF_TYPES or is_gguf(base) or (media_type == f"{_CNCF}weight.v1.raw" and not base):
        return "projector" if "mmproj" in base else "model"
    return _text_kind(media_type, base)


def _text_kind(media_type: str, base: str) -> str:
    if media_type.startswith((f"{_CNCF}doc.", f"{_CNCF}weight.config.")):
        if base.partition(".")[0] in ("license", "licence"):
            return "license"
        if base == "chat_template.jinja":
            return "template"
    return ""


def _is_archive(media_type: str) -> bool:
    words = re.split(r"[.+]", media_type)
    return any(word in ("tar", "gzip", "zstd", "zip") for word in words)


def _without_model(artifact: Artifact) -> ArtifactError:
    layers = [
        f"{item.media_type}{f' ({title})' if title else ''}"
        for item, title in zip(artifact.manifest.layers, artifact.titles, strict=True)
    ]
    if any(_is_archive(item.media_type) for item in artifact.manifest.layers):
        fix = f"archives are not unpacked: push the GGUF file raw, for instance as {_CNCF}weight.v1.raw"
    else:
        fix = "push the GGUF file with the annotation org.opencontainers.image.title ending in .gguf"
    return ArtifactError(f"no layer is a GGUF file; {fix}; its layers: {_listed(layers)}")


def _listed(items: Any) -> str:
    texts = list(items)
    more = f" and {len(texts) - _MAX_SHOWN} more" if len(texts) > _MAX_SHOWN else ""
    return ", ".join(texts[:_MAX_SHOWN]) + more if texts else "none"
