"""The Ollama registry protocol: a name becomes a manifest, and its layers a plan of blobs.

Called through `sources.select` and `sources.fetch`. The manifest is kept byte for byte, so its digest here is its
digest in the registry. Names on Hugging Face's hosts are handed to `huggingface`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from paddock_runner.core.collection import require_foreign
from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.manifest import (
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    InvalidManifestError,
    Layer,
    Manifest,
    parse_manifest,
)
from paddock_runner.core.names import InvalidNameError, ModelName, Reference
from paddock_runner.sources.auth import Access, access_for
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.huggingface import HOSTS as HUGGING_FACE_HOSTS
from paddock_runner.sources.huggingface import HuggingFaceSource
from paddock_runner.sources.plan import FetchPlan, PlannedFile, Remote
from paddock_runner.sources.transport import Answer, Transport
from paddock_runner.store.errors import DigestMismatchError, InvalidModelError
from paddock_runner.store.model import ROLES

CONTENT_DIGEST = "Docker-Content-Digest"
_NO_SUCH_DIGEST = (400, 404, 405)
"""What registries answer that know manifests only by tag."""


@dataclass(frozen=True, slots=True)
class OllamaSource:
    """A model of any Ollama-protocol registry; `digest` is the manifest digest that it must have."""

    name: ModelName
    digest: Digest | None = None
    scheme: str = "https"
    credentials: Path | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, object], credentials: Path | None = None) -> OllamaSource:
        """Read `source.ollama`; `credentials` is the folder of its mounted Secret.

        Raises SourceUnsupportedError that names the field.
        """
        name, digest = spec.get("name"), spec.get("digest")
        if not isinstance(name, str):
            raise SourceUnsupportedError("source.ollama.name must be a text")
        try:
            reference = Reference.parse(name)
            require_foreign(reference.name)
            wanted = Digest.parse(digest) if digest is not None else reference.digest
        except (InvalidNameError, InvalidDigestError) as error:
            raise SourceUnsupportedError(f"source.ollama: {error}") from None
        if reference.digest not in (None, wanted):
            raise SourceUnsupportedError(
                f"source.ollama: the name demands {reference.digest} and digest demands {wanted}; remove one of them"
            )
        return cls(reference.name, wanted, reference.scheme, credentials)

    @property
    def origin(self) -> str:
        """`scheme://host[:port]` of the registry."""
        return f"{self.scheme}://{self.name.host}"

    @property
    def access(self) -> Access | None:
        """How the registry's challenges are answered. Raises UnauthorizedError if the Secret is not usable."""
        if other := _on_hugging_face(self):
            return other.access
        return access_for(self.credentials, self.origin, os.environ)

    async def plan(self, transport: Transport) -> FetchPlan:
        """Resolve the tag (or the digest) to a manifest and list its blobs.

        Raises NotFoundError, UnauthorizedError, NetworkError, DigestMismatchError (another digest than demanded),
        InvalidModelError (no manifest, or a broken one), SourceUnsupportedError (a model that is not GGUF).
        """
        if other := _on_hugging_face(self):
            return await other.plan(transport)
        base = f"{self.origin}/v2/{self.name.namespace}/{self.name.model}"
        data = await self._manifest(transport, f"{base}/manifests")
        manifest = _parsed(data, self.name)
        digest = str(Digest.of(data))
        files = {(item.kind, item.digest): item for item in _files(manifest, f"{base}/blobs")}
        return FetchPlan(self.name, tuple(files.values()), data, revision=digest, validator=digest)

    async def _manifest(self, transport: Transport, base: str) -> bytes:
        """The manifest's bytes: by digest where the registry can, else by tag and compared."""
        answer = None
        if self.digest is not None:
            answer = await _get(transport, f"{base}/{self.digest}", ok=(200, *_NO_SUCH_DIGEST))
        if answer is None or answer.status != 200:
            answer = await _get(transport, f"{base}/{self.name.tag}", ok=(200,))
        _check_digest(answer, self.digest, self.name)
        return answer.body


def _on_hugging_face(source: OllamaSource) -> HuggingFaceSource | None:
    if source.name.host.lower() not in HUGGING_FACE_HOSTS:
        return None
    found = HuggingFaceSource.from_ollama_name(source.name, source.credentials)
    return replace(found, digest=source.digest)


async def _get(transport: Transport, url: str, ok: tuple[int, ...]) -> Answer:
    return await transport.read(url, limit=MAX_MANIFEST_BYTES, accept=MANIFEST_TYPE, ok=ok)


def _check_digest(answer: Answer, wanted: Digest | None, name: ModelName) -> None:
    found = Digest.of(answer.body)
    # A registry that tells the digest must send the bytes of it: something on the way may have changed them.
    told = answer.headers.get(CONTENT_DIGEST, "")
    for expected in (str(wanted or ""), told if told.startswith("sha256:") else ""):
        if expected not in ("", str(found)):
            raise DigestMismatchError(f"the manifest of {name}", expected[:80], found)


def _parsed(data: bytes, name: ModelName) -> Manifest:
    try:
        manifest = parse_manifest(data)
    except InvalidManifestError as error:
        raise InvalidModelError(f"the registry's manifest of {name} is refused: {error}") from None
    if manifest.of_kind("tensor"):
        raise SourceUnsupportedError(f"{name} is a safetensors model; only GGUF models are served, choose such a tag")
    if not manifest.of_kind("model"):
        raise InvalidModelError(f"the manifest of {name} has no model layer (a model of a cloud service has none)")
    return manifest


def _files(manifest: Manifest, base: str) -> list[PlannedFile]:
    layers = [_file(layer, _kind(layer), base) for layer in manifest.layers]
    return [*layers, _file(manifest.config, "config", base)]


def _file(layer: Layer, kind: str, base: str) -> PlannedFile:
    where = Remote(f"{base}/{layer.digest}")
    return PlannedFile(kind, layer.digest.file_name, where, layer.size, layer.digest, layer.media_type)


def _kind(layer: Layer) -> str:
    return ROLES.get(layer.kind, "")
