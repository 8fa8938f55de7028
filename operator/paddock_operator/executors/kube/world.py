"""Everything the operator sees of the cluster: a store per kind, kept by reflectors; Secrets where they are needed.

Made by `app`; read by the reconcilers. Nothing here asks the API server during a reconcile, except for an object of
which kopf has told a newer version than ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.cluster.labels import CHILD, MANAGED_BY, MANAGED_BY_VALUE, NAMESPACE_CHILD, SECRET_TYPE
from paddock_operator.core.cluster.observed import Children, Object
from paddock_operator.core.cluster.pods import label
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import API_KEY_TYPE, Ref
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import (
    BY_NAME,
    CHILD_KINDS,
    CLAIM,
    ENDPOINT,
    HTTP_ROUTE,
    MODEL,
    POD,
    SECRET,
    Kind,
)
from paddock_operator.executors.kube.reflector import Reflector, Scope
from paddock_operator.executors.kube.store import Changed, Store, version_of

log = logging.getLogger(__name__)

OURS = f"{MANAGED_BY}={MANAGED_BY_VALUE}"
ROUTE_GROUP = "/apis/gateway.networking.k8s.io/v1"
ROUTE_CHECK_SECONDS = 300.0


@dataclass(slots=True)
class SecretWatch:
    """The two reflectors of a namespace that holds Endpoints."""

    reflectors: tuple[Reflector, Reflector]
    tasks: tuple[asyncio.Task[None], ...]

    @property
    def ready(self) -> bool:
        """Whether both know what there is, or that they may not know."""
        return all(item.ready.is_set() for item in self.reflectors)

    @property
    def problem(self) -> str:
        """Why Secrets cannot be read, empty if they can."""
        return next((item.problem for item in self.reflectors if item.problem), "")


class World:
    """`changed` hears of every change in every store; `told` when Secrets of a namespace are known or refused."""

    def __init__(
        self,
        client: Client,
        namespaces: Sequence[str],
        claim_name: str,
        changed: Changed,
        told: Callable[[str], None],
        restarted: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._client, self._namespaces, self._told, self._restarted = (
            client,
            tuple(namespaces) or ("",),
            told,
            restarted,
        )
        self._claim_name = claim_name
        self.stores = {
            kind.name: Store(kind, changed) for kind in (*CHILD_KINDS, MODEL, ENDPOINT, POD, CLAIM, HTTP_ROUTE)
        }
        self.endpoint_secrets, self.key_secrets = Store(SECRET, changed), Store(SECRET, changed)
        self.stores[SECRET.name] = self.endpoint_secrets
        self._reflectors: list[Reflector] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._secrets: dict[str, SecretWatch] = {}
        self._expected: dict[Ref, int] = {}
        self.has_http_route = False

    async def start(self) -> None:
        """Begin to watch; returns when every kind has been listed (or was refused, which is logged and tried again)."""
        for kind in (*CHILD_KINDS, MODEL, ENDPOINT, POD, CLAIM):
            self._watch_kind(kind)
        await asyncio.gather(*(item.ready.wait() for item in self._reflectors))
        await self._check_routes()
        self._keep(asyncio.create_task(self._check_routes_for_ever()))

    async def stop(self) -> None:
        """End all watches."""
        tasks = [*self._tasks, *(task for watch in self._secrets.values() for task in watch.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def store(self, kind: str) -> Store:
        """The store of a kind."""
        return self.stores[kind]

    def child_kinds(self) -> Iterable[Kind]:
        """What may be pruned here: HTTPRoutes only where the cluster knows them."""
        return (*CHILD_KINDS, SECRET, HTTP_ROUTE) if self.has_http_route else (*CHILD_KINDS, SECRET)

    def children(self, ref: Ref, uid: str) -> Children:
        """The live children of an object; for a namespace (empty uid) what it shares.

        What lost its owner (an orphan, a copy made by hand) belongs to nobody: it is neither used nor deleted.
        """
        found = {kind.field: self._owned(kind, ref.namespace, uid) for kind in self.child_kinds()}
        return Children(**found, pods=self.stores[POD.name].labelled(ref.namespace, child_name(ref)))

    def _owned(self, kind: Kind, namespace: str, uid: str) -> tuple[Object, ...]:
        owned = self.stores[kind.name].owned(namespace, uid)
        return owned if uid else tuple(item for item in owned if label(item, CHILD) == NAMESPACE_CHILD)

    def claim(self, namespace: str) -> Object | None:
        """The namespace's cache claim."""
        return self.stores[CLAIM.name].get(namespace, self._claim_name)

    def expect(self, key: Ref, version: int) -> None:
        """Somebody saw this version of an object: do not act on an older one."""
        self._expected[key] = max(version, self._expected.get(key, 0))

    async def declared(self, key: Ref) -> Object | None:
        """A Model or Endpoint, None if there is none; asks the API server if ours is known to be old."""
        store = self.stores[key.kind]
        found = store.get(key.namespace, key.name)
        expected = self._expected.get(key, 0)
        if expected and (found is None or version_of(found) < expected):
            await self._refresh(key, store)
            found = store.get(key.namespace, key.name)
        self._expected.pop(key, None)
        return found

    async def _refresh(self, key: Ref, store: Store) -> None:
        try:
            store.put(await self._client.get(BY_NAME[key.kind], key.namespace, key.name))
        except ApiError as error:
            if not error.absent:
                raise
            store.discard(key.namespace, key.name)

    def dead_seconds(self) -> float:
        """How long the quietest watch has not heard from the API server."""
        return max((item.silent_seconds() for item in self._reflectors), default=0.0)

    def secrets_problem(self, namespace: str) -> str:
        """Why the Secrets of a namespace cannot be read, empty if they can or need not."""
        watch = self._secrets.get(namespace)
        return watch.problem if watch else ""

    def watch_secrets(self, namespace: str) -> SecretWatch:
        """The Secrets of a namespace with Endpoints; watching begins with the first call."""
        if namespace not in self._secrets:
            stores = ((self.key_secrets, API_KEY_TYPE), (self.endpoint_secrets, SECRET_TYPE))
            made = [
                self._reflector(store, Scope(namespace, fields=f"type={kind}"), lambda: self._told(namespace))
                for store, kind in stores
            ]
            tasks = tuple(asyncio.create_task(item.run()) for item in made)
            self._secrets[namespace] = SecretWatch((made[0], made[1]), tasks)
        return self._secrets[namespace]

    def unwatch_secrets(self, namespace: str) -> None:
        """The last Endpoint of a namespace is gone: forget its Secrets."""
        watch = self._secrets.pop(namespace, None)
        for task in watch.tasks if watch else ():
            task.cancel()
        for store in (self.key_secrets, self.endpoint_secrets):
            store.clear(namespace)

    def note(self, kind: Kind, item: dict[str, Any]) -> None:
        """An object as the API server answered our own write."""
        self.stores[kind.name].put(item, own=True)

    def _watch_kind(self, kind: Kind) -> None:
        labels = "" if kind in (MODEL, ENDPOINT, CLAIM) else OURS
        fields = f"metadata.name={self._claim_name}" if kind is CLAIM else ""
        for namespace in self._namespaces:
            made = self._reflector(self.stores[kind.name], Scope(namespace, labels, fields), lambda: None)
            self._reflectors.append(made)
            self._keep(asyncio.create_task(made.run()))

    def _reflector(self, store: Store, scope: Scope, told: Callable[[], None]) -> Reflector:
        return Reflector(self._client, store, scope, self._restarted, told)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)

    async def _check_routes_for_ever(self) -> None:
        while not self.has_http_route:
            await asyncio.sleep(ROUTE_CHECK_SECONDS)
            await self._check_routes()

    async def _check_routes(self) -> None:
        """Look whether the cluster knows HTTPRoutes by now."""
        try:
            found = await self._client.get_path(ROUTE_GROUP)
        except ApiError as error:
            if not error.absent:
                log.warning("cannot see whether the cluster knows HTTPRoutes: %s", error)
            return
        if any(item.get("name") == HTTP_ROUTE.plural for item in found.get("resources") or ()):
            self._watch_kind(HTTP_ROUTE)
            await asyncio.gather(*(item.ready.wait() for item in self._reflectors))
            self.has_http_route = True
