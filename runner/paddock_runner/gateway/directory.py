"""Where the runners of each Model are, now. Fed by `gateway.cluster` and `gateway.dns`, asked by `proxy` and `holds`.

A Model without a Service has the backends of the configuration. One with a Service has the ready addresses of its
EndpointSlices; until these were heard for the first time, those that its DNS name leads to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from paddock_runner.core.gateway_config import Model


class Directory:
    """`on_change` runs after every change of an address."""

    def __init__(self, on_change: Callable[[], object] = lambda: None) -> None:
        self._on_change = on_change
        self._slices: Mapping[str, tuple[str, ...]] | None = None
        self._names: dict[str, tuple[str, ...]] = {}
        self._changed = asyncio.Event()

    @property
    def knows_slices(self) -> bool:
        """Whether EndpointSlices were heard in this process; what they said last stays true without the API server."""
        return self._slices is not None

    def urls(self, model: Model) -> tuple[str, ...]:
        """The runners that may be asked now; none while nobody is ready."""
        if not model.service:
            return model.backends
        if self._slices is not None:
            return self._slices.get(model.service, ())
        return tuple(dict.fromkeys(url for backend in model.backends for url in self._names.get(backend, ())))

    def take_slices(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """The addresses by Service, from EndpointSlices."""
        if addresses != self._slices:
            self._slices = addresses
            self.ring()

    def take_name(self, backend: str, urls: tuple[str, ...]) -> None:
        """What the DNS name of a configured backend resolves to."""
        if self._names.get(backend) != urls:
            self._names[backend] = urls
            self.ring()

    def keep_names(self, backends: set[str]) -> None:
        """Forget every other name."""
        self._names = {backend: urls for backend, urls in self._names.items() if backend in backends}

    def ring(self) -> None:
        """Wake everybody who waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._on_change()

    async def change(self, seconds: float) -> None:
        """Return at the next change, after `seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
