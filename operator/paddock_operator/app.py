"""The operator's parts, wired: client, world, reconcilers, workers, kopf, Lease and ports. Called by `__main__`."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from paddock_operator import handlers, health
from paddock_operator.controller import Controller
from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.apply import Applier
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.gather import Gatherer, utc_now
from paddock_operator.executors.kube.kinds import ENDPOINT, MODEL, POD, Kind
from paddock_operator.executors.kube.login import Login
from paddock_operator.executors.kube.looks import Looks
from paddock_operator.executors.kube.names import Names
from paddock_operator.executors.kube.reconcile import Hands, Plans, Reconciler
from paddock_operator.executors.kube.recorder import Recorder
from paddock_operator.executors.kube.rings import Rings, intent
from paddock_operator.executors.kube.rolling import RollGate
from paddock_operator.executors.kube.status import StatusWriter
from paddock_operator.executors.kube.store import version_of
from paddock_operator.executors.kube.world import World
from paddock_operator.lease import Lease
from paddock_operator.metrics import Metrics

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0


class App:
    """One operator. `await App.make(...)`, then `run()`; `stopping` ends it. `ready` is set once workers work."""

    def __init__(self, client: Client, login: Login, settings: Settings, plans: Plans, metrics: Metrics) -> None:
        self._client, self._login, self._settings, self._metrics = client, login, settings, metrics
        self.ready, self.stopping = asyncio.Event(), asyncio.Event()
        self._kopf_stopped = asyncio.Event()
        self._gate = RollGate(settings.max_rolling)
        self.controller = Controller(self._reconcile, settings.workers, settings.resync_seconds, metrics)
        ring = self.controller.ring
        self._rings = Rings(
            ring,
            lambda kind, namespace: self.world.store(kind).within(namespace),
            self._saw,
            lambda namespace: self._names.invalidate(namespace),  # noqa: PLW0108 (it is made later)
        )
        self.world = World(
            client,
            settings.namespaces,
            settings.cache.claim_name,
            self._rings.changed,
            self._rings.secrets_known,
            metrics.watch_restarted,
        )
        self._names = Names(self.world)
        self._looks = Looks(client, ring, monotonic)
        self._reconciler = self._assemble(plans)
        self.ports = health.Ports(self._problem, self._scrape)

    @classmethod
    async def make(cls, login: Login, settings: Settings, plans: Plans) -> App:
        """Read credentials. Raises ApiError if there are none."""
        metrics = Metrics()
        return cls(await Client.connect(login, metrics.requested), login, settings, plans, metrics)

    def _assemble(self, plans: Plans) -> Reconciler:
        world, client = self.world, self._client
        hands = Hands(
            Applier(client, world),
            StatusWriter(client, world, monotonic),
            Recorder(client, monotonic, utc_now),
            self._looks,
            self._gate,
            self.controller.ring,
        )
        gatherer = Gatherer(world, self._names, self._looks, self._settings, utc_now)
        return Reconciler(world, self._names, gatherer, hands, plans)

    async def run(self) -> None:
        """Work until `stopping` is set. Raises LeaseLostError, or what ended kopf or a worker."""
        await self.ports.start(self._settings.health_port, self._settings.metrics_port)
        lease = Lease(self._client, self._settings.namespace) if self._settings.leader_election else None
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self.stopping.wait(), name="stopping")]
        try:
            if lease is None or await self._led(lease, tasks[0]):
                await self._start(lease, tasks)
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await self._shut_down(lease, tasks)

    async def _led(self, lease: Lease, stopping: asyncio.Task[Any]) -> bool:
        """Wait for leadership; False if the end came first."""
        acquiring = asyncio.create_task(lease.acquire(), name="acquire")
        await asyncio.wait([acquiring, stopping], return_when=asyncio.FIRST_COMPLETED)
        if acquiring.done():
            acquiring.result()
            return True
        acquiring.cancel()
        await asyncio.gather(acquiring, return_exceptions=True)
        return False

    async def _start(self, lease: Lease | None, tasks: list[asyncio.Task[Any]]) -> None:
        if lease is not None:
            tasks.append(asyncio.create_task(lease.hold(), name="lease"))
        starting = asyncio.create_task(self.world.start(), name="world")
        await asyncio.wait([starting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        self.controller.start()
        tasks.append(asyncio.create_task(self.controller.run(), name="workers"))
        watching = asyncio.Event()
        watch = handlers.watch(self._noticed, self._login, self._settings.namespaces, watching, self._kopf_stopped)
        tasks.append(asyncio.create_task(watch, name="kopf"))
        watched = asyncio.create_task(watching.wait())
        await asyncio.wait([watched, *tasks], return_when=asyncio.FIRST_COMPLETED)
        watched.cancel()
        on_signals(self.stopping.set)
        self.ready.set()
        log.info("ready: %d objects", sum(1 for _ in self._declared()))

    async def _shut_down(self, lease: Lease | None, tasks: list[asyncio.Task[Any]]) -> None:
        """End everything in five seconds at most; the Lease goes last, when nothing of ours writes any more."""
        await self.controller.stop()
        self._kopf_stopped.set()
        kopf = [task for task in tasks if task.get_name() == "kopf"]
        if kopf:
            await asyncio.wait(kopf, timeout=GRACE_SECONDS / 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._looks.stop()
        await self.world.stop()
        if lease is not None:
            await lease.release()
        await self.ports.stop()
        await self._client.close()

    async def _reconcile(self, key: Ref) -> float | None:
        return await self._reconciler.reconcile(key)

    def _noticed(self, key: Ref, metadata: Mapping[str, Any]) -> None:
        """kopf saw an object. It rings if our cache does not know what a person decided there."""
        known = self.world.store(key.kind).get(key.namespace, key.name)
        seen: Object = {"metadata": metadata}
        if known is None or (version_of(known) < version_of(seen) and intent(known) != intent(seen)):
            self.world.expect(key, version_of(seen))
            self.controller.ring(key)

    def _saw(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        self._gate.saw(kind, before, after)
        if kind is POD and after is None and before is not None:
            self._looks.forget_pod(before["metadata"]["uid"])

    def _declared(self) -> list[Object]:
        return [item for kind in (MODEL, ENDPOINT) for item in self.world.store(kind.name).all()]

    def _problem(self) -> str:
        queue = self.controller.queue
        return health.problem(queue.oldest_seconds(), queue.busy, self.world.dead_seconds())

    def _scrape(self) -> bytes:
        queue = self.controller.queue
        return self._metrics.page(queue.depth, queue.oldest_seconds(), self._declared())


def on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` for SIGTERM and SIGINT, also where kopf put handlers of its own before."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
