"""`source.model`: another Model's bytes under a name of one's own. The planner found that Model's digest.

Called through `sources.select`. Nothing is fetched: the manifest that the cache holds is the result, so a variant
shares every blob with the Model that it is made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paddock_runner.core.digest import Digest, InvalidDigestError
from paddock_runner.core.names import ModelName
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.plan import FetchPlan
from paddock_runner.store.errors import NotFoundError
from paddock_runner.store.manifests import pin_name

if TYPE_CHECKING:
    from paddock_runner.sources.auth import Access
    from paddock_runner.sources.transport import Transport


class NotYetError(NotFoundError):
    """Another Model's bytes are not here yet; its own puller brings them."""

    retryable = True


@dataclass(frozen=True, slots=True)
class ModelSource:
    """`model` is the other Model's name, `digest` that of its manifest."""

    model: str
    digest: Digest
    access: Access | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, object], credentials: Path | None = None) -> ModelSource:
        """Read `source.model`: `name`, and `digest` from the planner.

        Raises SourceUnsupportedError that names the field.
        """
        name, digest = spec.get("name"), spec.get("digest")
        if not isinstance(name, str) or not name:
            raise SourceUnsupportedError("source.model.name must be the name of another Model")
        if digest is None:
            raise SourceUnsupportedError(f"source.model.digest: the digest of the Model {name!r} is not known yet")
        try:
            return cls(name, Digest.parse(digest))
        except InvalidDigestError as error:
            raise SourceUnsupportedError(f"source.model.digest: {error}") from None

    @property
    def name(self) -> ModelName:
        """The pin of that Model's manifest: it has no other name that is known here."""
        return pin_name(self.digest)

    async def plan(self, transport: Transport) -> FetchPlan:
        """Raises NotYetError always: who asks has looked for the digest in the cache and not found it whole."""
        raise NotYetError(
            f"the model {self.model!r} ({self.digest}) is not in this cache yet, or not whole; it is used from there "
            f"once the Model {self.model!r} is pulled"
        )
