"""All that a gateway has to do with the API server, as one task beside the traffic. Made by `gateway.app`.

Nothing here answers a request, and no request waits for it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from paddock_runner.gateway.cluster.access import Access
from paddock_runner.gateway.cluster.client import Client
from paddock_runner.gateway.cluster.reflector import Health, Pace, Reflector, Sink, Target
from paddock_runner.gateway.cluster.report import Reporter
from paddock_runner.gateway.cluster.secret import SecretSource
from paddock_runner.gateway.cluster.slices import SERVICE, Addresses, SliceSource

SECRETS, SLICES = "secrets", "endpointslices"
RESOURCES = (SECRETS, SLICES)


@dataclass(frozen=True, slots=True)
class Place:
    """Which Endpoint this gateway is of: the namespace and name of its Secret, and the name of its own pod."""

    access: Access
    namespace: str
    name: str
    pod: str
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where what was learnt goes, and what a report needs."""

    take_config: Callable[[bytes], object]
    take_slices: Callable[[Addresses], object]
    config: Callable[[], str]
    report_failed: Callable[[], object]
    watch_failed: Callable[[str], object]


class Link:
    """The watches of the Secret and the EndpointSlices, and the reports."""

    def __init__(self, place: Place, outlets: Outlets) -> None:
        self._place = place
        self._outlets = outlets
        self._reporter: Reporter | None = None
        self.health = {resource: Health() for resource in RESOURCES}

    def config_changed(self) -> None:
        """A configuration came into force: report it."""
        if self._reporter:
            self._reporter.changed()

    async def run(self) -> None:
        """Follow and report until cancelled."""
        client = Client(self._place.access)
        self._reporter = self._make_reporter(client)
        try:
            await asyncio.gather(self._secret(client).run(), self._slices(client).run(), self._reporter.run())
        finally:
            await self._reporter.leave()
            await client.close()

    def _secret(self, client: Client) -> Reflector:
        place = self._place
        target = Target(SECRETS, f"/api/v1/namespaces/{place.namespace}/secrets", name=place.name)
        source = SecretSource(self._outlets.take_config)
        return self._reflector(client, target, source)

    def _slices(self, client: Client) -> Reflector:
        place = self._place
        path = f"/apis/discovery.k8s.io/v1/namespaces/{place.namespace}/endpointslices"
        source = SliceSource(self._outlets.take_slices)
        target = Target(SLICES, path, label_selector=SERVICE)
        return self._reflector(client, target, source)

    def _reflector(self, client: Client, target: Target, sink: Sink) -> Reflector:
        failed = functools.partial(self._outlets.watch_failed, target.resource)
        return Reflector(client, target, sink, failed, self._place.pace, self.health[target.resource])

    def _make_reporter(self, client: Client) -> Reporter:
        place, outlets = self._place, self._outlets
        path = f"/api/v1/namespaces/{place.namespace}/configmaps/{place.name}-gateways"
        return Reporter(client, path, place.pod, outlets.config, outlets.report_failed)
