"""Models and Endpoints of a cluster for `get` and `describe`, with their pods and events. Called by `cli.objects`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from paddock_operator.cli.cluster.client import Cluster, Object
from paddock_operator.cli.place import Target
from paddock_operator.cli.text import age, table
from paddock_operator.core.cluster.labels import CHILD, COMPONENT
from paddock_operator.core.identity import child_name
from paddock_operator.core.resources import reference
from paddock_operator.executors.kube.kinds import ENDPOINT, EVENT, MODEL, POD

KINDS = {"Model": MODEL, "Endpoint": ENDPOINT}
MAX_EVENTS = 20
"""The newest ones; `kubectl get events` has all."""


class ClusterShelf:
    """The objects of a namespace of a cluster, or of all namespaces."""

    def __init__(self, target: Target, *, all_namespaces: bool) -> None:
        self._target, self._all = target, all_namespaces
        place = "all namespaces" if all_namespaces else f"namespace {target.namespace}"
        self.name = f"{place} of context {target.context}"

    def objects(self, kind: str, name: str | None) -> list[Object]:
        """The objects of a kind. Raises CliError."""
        namespace = "" if self._all else self._target.namespace
        with Cluster(self._target) as cluster:
            if name and namespace:
                one = cluster.find(KINDS[kind], namespace, name)
                found = [one] if one else []
            else:
                found = cluster.list(KINDS[kind], namespace)
        return [_plain(item) for item in found if name in (None, item["metadata"]["name"])]

    def spread(self, _: list[Object]) -> bool:
        return self._all

    def describe_more(self, document: Object) -> None:
        """Print the pods of an object, and the events of the object and of everything that was made for it."""
        child, namespace = child_name(reference(document)), document["metadata"]["namespace"]
        with Cluster(self._target) as cluster:
            pods = cluster.list(POD, namespace, labelSelector=f"{CHILD}={child}")
            events = cluster.list(EVENT, namespace)
        now = datetime.now(UTC)
        if pods:
            sys.stdout.write("Pods:\n")
            table(("NAME", "COMPONENT", "STATUS", "RESTARTS", "AGE", "MESSAGE"), [_pod(pod, now) for pod in pods])
        about = [event for event in events if _is_about(event, document, child)]
        if about:
            about.sort(key=_when)
            sys.stdout.write("Events:\n")
            rows = [_event(event, now) for event in about[-MAX_EVENTS:]]
            table(("LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"), rows)


def _plain(document: Object) -> Object:
    """Without the field owners, as kubectl shows it."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    head = {name: document[name] for name in ("apiVersion", "kind") if name in document}
    return head | {"metadata": metadata} | {n: v for n, v in document.items() if n not in (*head, "metadata")}


def _pod(pod: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    metadata, status = pod["metadata"], pod.get("status") or {}
    containers = status.get("containerStatuses") or ()
    state, message = _pod_state(status, containers)
    if metadata.get("deletionTimestamp"):
        state = "Terminating"
    restarts = sum(int(one.get("restartCount") or 0) for one in containers)
    component = str((metadata.get("labels") or {}).get(COMPONENT) or "")
    return metadata["name"], component, state, str(restarts), age(str(metadata.get("creationTimestamp")), now), message


def _pod_state(status: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """A word and a sentence: why it does not run, else how it ended last, else its phase."""
    for container in containers:
        state = container.get("state") or {}
        stopped = state.get("waiting") or state.get("terminated")
        if stopped:
            last = (container.get("lastState") or {}).get("terminated") or {}
            return str(stopped.get("reason") or "Waiting"), str(stopped.get("message") or last.get("message") or "")
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "Pending"), str(condition.get("message") or "")
    ready = bool(containers) and all(one.get("ready") for one in containers)
    word = str(status.get("phase") or "Unknown")
    return ("Ready" if ready else "NotReady") if word == "Running" else word, str(status.get("message") or "")


def _is_about(event: Mapping[str, Any], document: Object, child: str) -> bool:
    subject = event.get("involvedObject") or {}
    name, metadata = str(subject.get("name") or ""), document["metadata"]
    if subject.get("kind") == document["kind"]:
        return name == metadata["name"] and subject.get("uid") in (None, metadata["uid"])
    return name == child or name.startswith(f"{child}-")


def _when(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = event["metadata"].get("creationTimestamp")
    return str(next((time for time in (*times, created) if time), ""))


def _event(event: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    subject = event.get("involvedObject") or {}
    what = f"{str(subject.get('kind') or '').lower()}/{subject.get('name')}"
    words = [str(event.get(name) or "") for name in ("type", "reason")]
    return age(_when(event), now), *words, what, str(event.get("message") or "")
