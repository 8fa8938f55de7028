"""A model folder with a tiny real model, its manifest pinned as a puller leaves it. For tests of `serve` that wait."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import Layer, build_manifest, layer
from paddock_runner.store.store import Store

CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"


@dataclass(frozen=True)
class TinyModel:
    """The bytes of a GGUF file (or of what is taken for one) and of the manifest around it."""

    gguf: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        return str(Digest.of(self.manifest))

    @property
    def blob(self) -> Digest:
        return Digest.of(self.gguf)

    def pull_into(self, folder: Path) -> Store:
        """Write everything, the pin last."""
        store = Store(folder)
        with store.writing():
            store.write_blob(io.BytesIO(self.gguf))
            store.write_blob(io.BytesIO(b"{}"))
            store.pin(Digest.of(self.manifest), self.manifest)
        return store


def tiny_model(gguf: bytes) -> TinyModel:
    """A model of these bytes."""
    config = Layer(CONFIG_TYPE, Digest.of(b"{}"), 2)
    return TinyModel(gguf, build_manifest(config, [layer("model", Digest.of(gguf), len(gguf))]))
