"""Looks at what watches do not show, in the background: logs of pods that are pending, Warnings about stuck objects.

Called by the reconcilers, which never wait for it: what was found last is read at once, and news ring the key again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.client import Client
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.kinds import EVENT
from paddock_operator.executors.kube.rings import Ring

log = logging.getLogger(__name__)

LOG_SECONDS = {"puller": 10.0, "converter": 10.0, "runner": 1.0}
LOG_EVENTS = ("progress", "state")
TAIL_LINES = 200
AT_ONCE = 4
CROWD = 20
"""With more looks than this under way, each pod is looked at less often."""
MAX_PAUSE = 60.0
FIRST_LOOK_SECONDS = 5.0
WARNING_SECONDS = 5.0
WARNING_PAGES = 5


class Looks:
    """`events`: pod uid → last event of its log; `warnings`: uid → newest Warning of its namespace."""

    def __init__(self, client: Client, ring: Ring, clock: Callable[[], float]) -> None:
        self._client, self._ring, self._clock = client, ring, clock
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._looked: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._read: set[str] = set()
        self._warnings: dict[str, dict[str, tuple[str, str]]] = {}
        self._warned: dict[str, float] = {}

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def event(self, pod: Object) -> Mapping[str, Any] | None:
        """The last event that a pod's log told, None if there is none since its container started."""
        restarts, event = self._events.get(pod["metadata"]["uid"], (-1, None))
        return event if restarts == _restarts(pod) else None

    def want_log(self, pod: Object, container: str, key: Ref) -> float:
        """Read this pod's log if it was not just read; seconds until it should be wanted again."""
        uid = pod["metadata"]["uid"]
        pause = self._pause(uid, container)
        due = self._looked.get(uid, -pause) + pause - self._clock()
        if due > 0:
            return due
        self._looked[uid] = self._clock()
        self._start(self._read_log(pod, container, key))
        return pause

    def awaits_first(self, pods: Iterable[Object]) -> bool:
        """Whether the first look at one of these pods began less than five seconds ago and has not ended.

        What a pod told an earlier process is unknown until then: a plan would take it for not told.
        """
        unread = (pod["metadata"]["uid"] for pod in pods if pod["metadata"]["uid"] not in self._read)
        return any(self._clock() - self._looked.get(uid, -MAX_PAUSE) < FIRST_LOOK_SECONDS for uid in unread)

    def forget_pod(self, uid: str) -> None:
        """A pod is gone."""
        self._events.pop(uid, None)
        self._looked.pop(uid, None)
        self._failures.pop(uid, None)
        self._read.discard(uid)

    def warnings(self, namespace: str) -> Mapping[str, tuple[str, str]]:
        """uid → (reason, message) of the newest Warning, as seen last."""
        return self._warnings.get(namespace, {})

    def want_warnings(self, namespace: str, key: Ref) -> float:
        """Read the Warnings of a namespace if they were not just read; seconds until they should be wanted again."""
        due = self._warned.get(namespace, -WARNING_SECONDS) + WARNING_SECONDS - self._clock()
        if due > 0:
            return due
        self._warned[namespace] = self._clock()
        self._start(self._read_warnings(namespace, key))
        return WARNING_SECONDS

    def forget_namespace(self, namespace: str) -> None:
        """A namespace holds nothing of ours any more."""
        self._warnings.pop(namespace, None)
        self._warned.pop(namespace, None)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_log(self, pod: Object, container: str, key: Ref) -> None:
        metadata = pod["metadata"]
        uid = metadata["uid"]
        event = None
        try:
            async with self._places:
                text = await self._client.pod_log(metadata["namespace"], metadata["name"], container, TAIL_LINES)
        except ApiError as error:
            self._no_log(metadata, error)
        else:
            self._failures.pop(uid, None)
            event = last_event(text)
        if uid not in self._looked:
            return
        news = event is not None and self.event(pod) != event
        if news and event is not None:
            self._events[uid] = (_restarts(pod), event)
        if news or uid not in self._read:
            self._read.add(uid)
            self._ring(key, 0.0)

    def _pause(self, uid: str, container: str) -> float:
        """Seconds between two looks at a log: more in a crowd, and more when its kubelet does not answer."""
        crowd = max(1.0, len(self._tasks) / CROWD)
        return min(MAX_PAUSE, LOG_SECONDS[container] * crowd * 2.0 ** self._failures.get(uid, 0))

    def _no_log(self, metadata: Mapping[str, Any], error: ApiError) -> None:
        uid = metadata["uid"]
        if uid not in self._failures:
            log.info("no log of %s/%s: %s", metadata["namespace"], metadata["name"], error)
        if uid in self._looked:
            self._failures[uid] = min(self._failures.get(uid, 0) + 1, 10)

    async def _read_warnings(self, namespace: str, key: Ref) -> None:
        try:
            items = await self._warning_events(namespace)
        except ApiError as error:
            log.info("no Warnings of namespace %s: %s", namespace, error)
            return
        found = newest(items)
        if found != self._warnings.get(namespace, {}):
            self._warnings[namespace] = found
            self._ring(key, 0.0)

    async def _warning_events(self, namespace: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        token = ""
        for _ in range(WARNING_PAGES):
            more = {"continue": token} if token else {}
            page = await self._client.list_page(EVENT, namespace, fieldSelector="type=Warning", **more)
            items += page.get("items") or []
            token = page["metadata"].get("continue") or ""
            if not token:
                break
        return items


def last_event(text: str) -> Mapping[str, Any] | None:
    """The last line of a log that is an event of the contracts, None if there is none."""
    for line in reversed(text.splitlines()):
        if not line.startswith("{"):
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") in LOG_EVENTS:
            return event
    return None


def newest(items: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """uid of the object → reason and message of its newest Warning."""
    found: dict[str, tuple[str, str]] = {}
    for item in sorted(items, key=_when):
        uid = (item.get("involvedObject") or {}).get("uid")
        if uid and (item.get("source") or {}).get("component") != "paddock-operator":
            found[uid] = (str(item.get("reason") or ""), str(item.get("message") or "")[:1024])
    return found


def _when(item: Mapping[str, Any]) -> str:
    series = item.get("series") or {}
    times = (series.get("lastObservedTime"), item.get("lastTimestamp"), item.get("eventTime"))
    return next((str(time) for time in times if time), "")


def _restarts(pod: Object) -> int:
    return sum(
        int(entry.get("restartCount") or 0) for entry in (pod.get("status") or {}).get("containerStatuses") or ()
    )
