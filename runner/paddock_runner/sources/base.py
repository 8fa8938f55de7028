"""What a source is: something that knows the files of one model. Each protocol is one module with such a class.

`sources.select` picks it by the key of `Model.spec.source`, `sources.fetch` carries its plan out.
"""

from __future__ import annotations

from typing import Protocol

from paddock_runner.core.digest import Digest
from paddock_runner.core.names import ModelName
from paddock_runner.sources.auth import Access
from paddock_runner.sources.plan import FetchPlan
from paddock_runner.sources.transport import Transport


class Source(Protocol):
    """Where a model comes from. `name` is what the model is called in the store."""

    @property
    def name(self) -> ModelName: ...

    @property
    def digest(self) -> Digest | None:
        """The manifest digest that the source itself demands, if any."""
        ...

    @property
    def access(self) -> Access | None:
        """The credentials of the source's origin. Raises UnauthorizedError if its Secret cannot be used."""
        ...

    async def plan(self, transport: Transport) -> FetchPlan:
        """Ask where the files are; brings no large bytes and writes nothing.

        Raises a StoreError whose `reason` and `retryable` tell the operator what to do.
        """
        ...
