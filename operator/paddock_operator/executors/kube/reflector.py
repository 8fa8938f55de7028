"""Keeps a store equal to the API server: list, then watch, then list again when the past is lost.

Started by `world`, one per kind and scope. A list replaces its scope whole, so what was deleted while nobody watched
is seen; a broken watch goes on from the last version.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.store import Place, Store, place_of

log = logging.getLogger(__name__)

WATCH_SECONDS = (240, 360)
FIRST_DELAY, MAX_DELAY, REFUSED_DELAY = 0.2, 30.0, 30.0


@dataclass(frozen=True, slots=True)
class Scope:
    """What a reflector asks for; an empty namespace means all."""

    namespace: str = ""
    labels: str = ""
    fields: str = ""

    def query(self) -> dict[str, str]:
        """The selectors as query parameters."""
        return {"labelSelector": self.labels, "fieldSelector": self.fields}


class Reflector:
    """One list-watch. `problem` says why there is no list yet, `ready` is set with the first list or refusal."""

    def __init__(
        self, client: Client, store: Store, scope: Scope, restarted: Callable[[str], None], told: Callable[[], None]
    ) -> None:
        self._client, self._store, self._scope = client, store, scope
        self._restarted, self._told = restarted, told
        self.ready = asyncio.Event()
        self.problem = ""
        self._contact = monotonic()
        self._failures = 0
        self._version = ""

    def __str__(self) -> str:
        fields = f"with {self._scope.fields} " if self._scope.fields else ""
        return f"{self._store.kind.plural} {fields}in {self._scope.namespace or 'all namespaces'}"

    def silent_seconds(self) -> float:
        """Seconds since the API server was last heard; an open watch speaks about once a minute."""
        return monotonic() - self._contact

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiError as error:
                await asyncio.sleep(self._failed(error))

    async def _list(self) -> None:
        kind, namespace = self._store.kind, self._scope.namespace
        listed: set[Place] = set()
        version = ""
        # Page by page, so that only one page at a time is in memory untrimmed.
        async for items, page_version in self._client.pages(kind, namespace, **self._scope.query()):
            self._heard()
            version = page_version
            for item in items:
                listed.add(place_of(item))
                self._store.put(item)
        self._store.sweep(listed, version, namespace)
        self._version = version
        self._settle("")

    async def _watch(self) -> None:
        kind, scope = self._store.kind, self._scope
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311
        async for what, item in self._client.watch(
            kind, scope.namespace, self._version, seconds, self._heard, **scope.query()
        ):
            self._heard()
            self._version = str(item["metadata"]["resourceVersion"])
            if what == "DELETED":
                self._store.remove(item)
            elif what != "BOOKMARK":
                self._store.put(item)
        self._heard()

    def _heard(self) -> None:
        self._contact = monotonic()
        self._failures = 0

    def _failed(self, error: ApiError) -> float:
        """Note what went wrong and return the seconds to wait."""
        self._restarted(self._store.kind.name)
        if error.status:
            # An answer is contact, whatever it says: a restart of this program could not cure it.
            self._contact = monotonic()
        if error.gone:
            self._version = ""
            return 0.0
        if error.forbidden or error.absent:
            self._version = ""
            self._settle(error.message)
            return REFUSED_DELAY * random.uniform(0.9, 1.1)  # noqa: S311
        self._failures += 1
        log.log(logging.INFO if self._failures == 1 else logging.WARNING, "watch of %s failed: %s", self, error)
        delay = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
        return max(delay, error.retry_after or 0.0)

    def _settle(self, problem: str) -> None:
        news = not self.ready.is_set() or problem != self.problem
        if problem and news:
            log.error("cannot watch %s: %s", self, problem)
        self.problem = problem
        self.ready.set()
        if news:
            self._told()
