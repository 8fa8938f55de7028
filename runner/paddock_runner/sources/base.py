"""The seam between `pull` and the protocols: what a source is.

Each protocol is one module with a class that satisfies `Source`; `sources.select` picks it by the key of
`Model.spec.source`.
"""

from __future__ import annotations

from typing import Protocol

from paddock_runner.core.digest import Digest
from paddock_runner.core.names import ModelName
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import LayerProgress
from paddock_runner.store.store import Store


class Source(Protocol):
    """Where a model comes from. `name` is what the model is called in the store."""

    @property
    def name(self) -> ModelName: ...

    @property
    def digest(self) -> Digest | None:
        """The manifest digest that the source itself demands, if any."""
        ...

    def fetch(self, store: Store, progress: LayerProgress) -> StoredManifest:
        """Bring the model into the store (or find it there) and return its manifest.

        Raises a StoreError whose `reason` and `retryable` tell the operator what to do.
        """
        ...
