"""How many of our Deployments roll at the moment, and who may be the next. Called by the reconcilers.

Only a roll that nobody asked for (a new operator's pod template) needs the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.kinds import DEPLOYMENT, Kind
from paddock_operator.executors.kube.store import Place, place_of

SETTLED = ("NewReplicaSetAvailable", "ProgressDeadlineExceeded")


class RollGate:
    """`saw` hears of every change; a taken place is given back when its Deployment was written and so seen rolling."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rolling: set[Place] = set()
        self._taken: set[Ref] = set()

    def saw(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        """A change of an object."""
        item = after if after is not None else before
        if kind is not DEPLOYMENT or item is None:
            return
        if after is not None and rolling(after):
            self._rolling.add(place_of(item))
        else:
            self._rolling.discard(place_of(item))

    def may_roll(self) -> bool:
        """Whether one more may begin."""
        return len(self._rolling) + len(self._taken) < self._limit

    def take(self, key: Ref) -> None:
        """`key` is about to write a roll."""
        self._taken.add(key)

    def give_back(self, key: Ref) -> None:
        """The roll of `key` is written, or failed."""
        self._taken.discard(key)


def rolling(deployment: Object) -> bool:
    """Whether a Deployment is on its way to its template: not yet looked at by its controller, or in progress."""
    status = deployment.get("status") or {}
    spec = deployment.get("spec") or {}
    # A paused one goes nowhere: it must not keep all others from their turn.
    if spec.get("replicas") == 0 or spec.get("paused"):
        return False
    if int(status.get("observedGeneration") or 0) < int(deployment["metadata"].get("generation") or 0):
        return True
    conditions = status.get("conditions") or ()
    progress: Mapping[str, Any] = next((entry for entry in conditions if entry.get("type") == "Progressing"), {})
    return bool(progress) and progress.get("reason") not in SETTLED
