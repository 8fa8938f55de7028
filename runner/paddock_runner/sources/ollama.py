"""The Ollama registry protocol: for now, models whose name the cache holds already.

Called through `sources.select`. Pulling from a registry comes later; the message says how to seed the cache until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.names import InvalidNameError, ModelName
from paddock_runner.sources.credentials import authorization
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.store.errors import NotFoundError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.store import Store


@dataclass(frozen=True, slots=True)
class OllamaSource:
    name: ModelName
    digest: Digest | None
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
            return cls(ModelName.parse(name), Digest.parse(digest) if digest is not None else None, credentials)
        except (InvalidNameError, InvalidDigestError) as error:
            raise SourceUnsupportedError(f"source.ollama: {error}") from None

    def fetch(self, store: Store, progress: LayerProgress) -> StoredManifest:
        """The manifest of the name in the cache.

        Raises NotFoundError if the cache does not hold it, UnauthorizedError if besides its Secret is not usable.
        """
        try:
            return store.manifest(self.name)
        except NotFoundError:
            if self.credentials is not None:
                authorization(self.credentials, self.name.host)
            raise NotFoundError(
                f"model {str(self.name)!r} is not in the cache, and pulling from a registry is not supported yet; "
                f"seed the cache with: paddock create {self.name} -f Modelfile"
            ) from None
