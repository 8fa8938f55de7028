"""Write a status, only if it says something new, and progress at most every ten seconds. Called by the reconcilers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.resources import API_VERSION, Ref
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.kinds import BY_NAME
from paddock_operator.executors.kube.world import World

PROGRESS_SECONDS = 10.0
PROGRESS_FIELDS = ("pull", "memory")
"""Numbers for display: their changes alone are no news."""


class StatusWriter:
    """Statuses of Models and Endpoints, by server-side apply at the sub-resource."""

    def __init__(self, client: Client, world: World, clock: Callable[[], float]) -> None:
        self._client, self._world, self._clock = client, world, clock
        self._written: dict[Ref, float] = {}
        self._answered: dict[Ref, tuple[Mapping[str, Any], Any]] = {}

    async def write(self, key: Ref, document: Object, status: Mapping[str, Any]) -> tuple[bool, float | None]:
        """(whether it was written, seconds to wait before it may be). Raises ApiError."""
        live = document.get("status") or {}
        if live == status or self._answered.get(key) == (status, live):
            return False, None
        if (wait := self._wait(key, live, status)) > 0:
            return False, wait
        answer = await self._client.apply(BY_NAME[key.kind], _body(document, status), "status")
        self._written[key] = self._clock()
        # The API server may keep less than was sent (an older CRD): that is no reason to write again.
        kept = answer.get("status") or {}
        if kept == status:
            self._answered.pop(key, None)
        else:
            self._answered[key] = (status, kept)
        self._world.note(BY_NAME[key.kind], answer)
        return True, None

    def forget(self, key: Ref) -> None:
        """The object is gone."""
        self._written.pop(key, None)
        self._answered.pop(key, None)

    def _wait(self, key: Ref, live: Mapping[str, Any], status: Mapping[str, Any]) -> float:
        if key not in self._written or _news(live) != _news(status):
            return 0.0
        return self._written[key] + PROGRESS_SECONDS - self._clock()


def _news(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without what is mere progress: numbers, and the messages of conditions that tell them."""
    kept = {name: value for name, value in status.items() if name not in PROGRESS_FIELDS}
    kept["conditions"] = [
        {name: value for name, value in entry.items() if name != "message"} for entry in status.get("conditions") or ()
    ]
    return kept


def _body(document: Object, status: Mapping[str, Any]) -> dict[str, Any]:
    metadata = document["metadata"]
    # The uid makes it a conflict to write to another object of the same name.
    identity = {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}
    return {"apiVersion": API_VERSION, "kind": document["kind"], "metadata": identity, "status": dict(status)}
