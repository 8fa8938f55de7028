"""Does to the cache what `core.prefix` decided, and keeps the bytes of prefixes in host memory. Called by the loop."""

from __future__ import annotations

from collections.abc import Iterable

from paddock_runner.core.prefix_operations import Copy, Cut, Operation, Restore, Save
from paddock_runner.engine.backend import Backend


class CacheHands:
    """`saved` maps keys of `core.prefix_host` to what the backend gave for them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.saved: dict[int, bytearray] = {}

    def apply(self, operations: Iterable[Operation]) -> None:
        """In this order. Raises BackendError."""
        for operation in operations:
            if isinstance(operation, Copy):
                self._backend.copy(operation.source, operation.target, operation.length)
            elif isinstance(operation, Cut):
                self._backend.remove(operation.sequence, operation.start)
            elif isinstance(operation, Save):
                self.saved[operation.key] = self._backend.save(operation.sequence)
            elif isinstance(operation, Restore):
                self._backend.restore(operation.sequence, self.saved[operation.key])
            else:
                del self.saved[operation.key]
