"""OCI artifacts as a source: a reference to a registry of the distribution spec becomes a plan of files.

Called through `sources.select`. Nothing that a registry says is trusted but the bytes: every document must hash to what
asked for it. A manifest of Ollama's kind is kept byte for byte; of any other only the layers that are used are fetched.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paddock_runner.core.collection import require_foreign
from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import MAX_MANIFEST_BYTES, InvalidManifestError, Layer
from paddock_runner.core.names import InvalidNameError, ModelName
from paddock_runner.core.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_INDEX_DEPTH,
    Artifact,
    ArtifactError,
    choose,
    parse_document,
    used_layers,
)
from paddock_runner.core.oci_reference import InvalidReferenceError, OciReference
from paddock_runner.sources.auth import Access, access_for
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.plan import FetchPlan, PlannedFile, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.errors import DigestMismatchError, InvalidModelError, SizeMismatchError
from paddock_runner.store.model import ROLES

ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_GO_WORDS = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest as it came: its bytes, their digest, and what they say."""

    data: bytes
    digest: Digest
    artifact: Artifact


@dataclass(frozen=True, slots=True)
class OciSource:
    """An artifact of a registry; `credentials` is the folder of a mounted Secret."""

    reference: OciReference
    credentials: Path | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, object], credentials: Path | None = None) -> OciSource:
        """Read `source.oci`. Raises SourceUnsupportedError that names the field."""
        text = spec.get("reference")
        if not isinstance(text, str):
            raise SourceUnsupportedError("source.oci.reference must be a text")
        try:
            source = cls(OciReference.parse(text), credentials)
            require_foreign(source.name)
        except (InvalidReferenceError, InvalidNameError) as error:
            raise SourceUnsupportedError(f"source.oci.reference: {error}") from None
        return source

    @property
    def name(self) -> ModelName:
        """What the model is called in the store."""
        return self.reference.name

    @property
    def digest(self) -> Digest | None:
        """None: the digest of a reference may be that of an index, and it is held to while the plan is made."""
        return None

    @property
    def access(self) -> Access:
        """The credentials for the registry, or anonymous tokens."""
        return access_for(self.credentials, self.reference.origin, os.environ)

    async def plan(self, transport: Transport) -> FetchPlan:
        """Ask the registry for the manifest and choose its layers.

        Raises NotFoundError, UnauthorizedError, NetworkError; InvalidModelError (a document breaks the format),
        DigestMismatchError, SizeMismatchError; SourceUnsupportedError that lists what is there if it is no GGUF model.
        """
        try:
            document = await self._document(transport)
            return self._plan(document)
        except InvalidManifestError as error:
            raise InvalidModelError(f"the manifest of {self._shown}: {error}") from None
        except ArtifactError as error:
            raise SourceUnsupportedError(f"{self._shown}: {error}") from None

    @property
    def _shown(self) -> str:
        return f"{self.reference.host}/{self.reference.repository}"

    async def _document(self, transport: Transport) -> Document:
        word, digest, size = self.reference.word, self.reference.digest, None
        for _ in range(MAX_INDEX_DEPTH + 1):
            answer = await transport.read(
                self.reference.url(f"manifests/{word}"), limit=MAX_MANIFEST_BYTES, accept=ACCEPT
            )
            actual = Digest.of(answer.body)
            if digest not in (None, actual):
                raise DigestMismatchError(f"the manifest {word} of {self._shown}", digest, actual)
            if size not in (None, len(answer.body)):
                raise SizeMismatchError(f"the manifest {word} of {self._shown}", size or 0, len(answer.body))
            parsed = parse_document(answer.body, answer.headers.get("Content-Type", ""))
            if isinstance(parsed, Artifact):
                return Document(answer.body, actual, parsed)
            chosen = choose(parsed, _architecture())
            word, digest, size = str(chosen.digest), chosen.digest, chosen.size
        raise InvalidManifestError(f"indexes are nested deeper than {MAX_INDEX_DEPTH} levels")

    def _plan(self, document: Document) -> FetchPlan:
        manifest = document.artifact.manifest
        own = len(manifest.of_kind("model")) == 1
        files = [
            self._file(item.kind, item.title, Layer(item.media_type, item.digest, item.size))
            for item in used_layers(document.artifact)
        ]
        if own:
            files = [self._file(ROLES.get(item.kind, ""), "", item) for item in manifest.layers]
            files.append(self._file("config", "", manifest.config))
        return FetchPlan(
            self.name,
            tuple(files),
            manifest=document.data if own else None,
            revision=str(document.digest),
            validator=str(document.digest),
        )

    def _file(self, kind: str, title: str, layer: Layer) -> PlannedFile:
        name = title.rpartition("/")[2] or layer.digest.short
        where = Remote(self.reference.url(f"blobs/{layer.digest}"))
        return PlannedFile(kind, name, where, layer.size, layer.digest, layer.media_type)


def _architecture() -> str:
    machine = platform.machine()
    return _GO_WORDS.get(machine, machine)
