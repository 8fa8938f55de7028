"""Kubernetes Events: one per transition that a person should hear of. Called by the reconcilers.

The name of an Event is made from object and reason, so a repetition is a count and not another object.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.conditions import MODEL_PROGRESS
from paddock_operator.core.identity import short_hash
from paddock_operator.core.plan_types import Note
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import EVENT

log = logging.getLogger(__name__)

QUIET_SECONDS = 600.0
REMEMBERED = 10_000
SILENT_CONDITIONS = ("Resolved", "Cached", "Available", "Fits", "Reconciling")
"""Their transitions come with one of Ready or Stalled: an Event for each would say one thing five times."""
GOOD = " is True: "
NORMAL_REASONS = frozenset({"Suspended", "Idle", "ScaledToZero", "NoModels"})


class Recorder:
    """Writes Events; what was said within ten minutes is not said again. A failure is logged and forgotten."""

    def __init__(self, client: Client, clock: Callable[[], float], now: Callable[[], str]) -> None:
        self._client, self._clock, self._now = client, clock, now
        self._sent: OrderedDict[str, tuple[float, str, str, int]] = OrderedDict()

    async def record(self, document: Object, notes: tuple[Note, ...]) -> None:
        """Log notes, and write those that matter as Events."""
        metadata = document["metadata"]
        said: set[str] = set()
        for note in notes:
            matters = worth_an_event(note)
            where = (document["kind"], metadata["namespace"], metadata["name"])
            log.log(logging.INFO if matters else logging.DEBUG, "%s %s/%s: %s: %s", *where, note.reason, note.message)
            if matters and note.reason not in said:
                said.add(note.reason)
                await self.event(document, note.reason, note.message, warning=is_warning(note))

    async def event(self, document: Object, reason: str, message: str, *, warning: bool) -> None:
        """Write one Event, unless the same was written within ten minutes."""
        metadata = document["metadata"]
        name = f"{metadata['name'][:200]}.{short_hash({'uid': metadata['uid'], 'reason': reason})}"
        sent_at, first, said, count = self._sent.get(name, (0.0, self._now(), "", 0))
        if said == message and self._clock() - sent_at < QUIET_SECONDS:
            return
        self._remember(name, first, message, count + 1)
        body = self._body(document, name, reason, message, "Warning" if warning else "Normal", first, count + 1)
        try:
            await self._client.apply(EVENT, body)
        except ApiError as error:
            log.warning("cannot write an Event for %s %s: %s", document["kind"], metadata["name"], error)

    def _remember(self, name: str, first: str, message: str, count: int) -> None:
        self._sent[name] = (self._clock(), first, message, count)
        self._sent.move_to_end(name)
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def _body(
        self, document: Object, name: str, reason: str, message: str, severity: str, first: str, count: int
    ) -> dict[str, Any]:
        metadata = document["metadata"]
        subject = {"apiVersion": document["apiVersion"], "kind": document["kind"]}
        subject |= {field: metadata[field] for field in ("name", "namespace", "uid")}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": subject,
            "reason": reason,
            "message": message[:1024],
            "type": severity,
            "source": {"component": "paddock-operator"},
            "reportingComponent": "paddock.dev/operator",
            "firstTimestamp": first,
            "lastTimestamp": self._now(),
            "count": count,
        }


def worth_an_event(note: Note) -> bool:
    """Whether a person should hear of it: not of steps on the way, nor of what follows from another condition."""
    condition = note.message.partition(" ")[0]
    return note.reason not in MODEL_PROGRESS and condition not in SILENT_CONDITIONS


def is_warning(note: Note) -> bool:
    """Whether it is bad news: a verdict that is not True, or one that is called Stalled or NameConflict."""
    if note.reason in NORMAL_REASONS:
        return False
    return GOOD not in note.message or note.message.startswith(("Stalled ", "NameConflict "))
