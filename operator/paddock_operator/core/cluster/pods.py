"""Reading pods: readiness, containers, and which log is worth a look. Called by the plans of Models and the executor.

All functions take objects as the API server shows them and accept that any field is absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from paddock_operator.core.clock import seconds_between
from paddock_operator.core.cluster.labels import (
    COMPONENT,
    CONFIG_HASH,
    CONVERTER,
    FIELD_MANAGER,
    IN_FORCE,
    PULLER,
    REVISION,
    RUNNER,
)
from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.conditions import find

LOG_AFTER_SECONDS = 3.0
"""A runner that is not ready tells why in its log; before this time there is nothing to tell yet."""
FINISHED = ("Succeeded", "Failed")


def meta(document: Object) -> Mapping[str, Any]:
    """The metadata of an object, empty if it has none."""
    return document.get("metadata") or {}


def uid(document: Object) -> str:
    """The uid of an object, empty if it has none."""
    return str(meta(document).get("uid") or "")


def name(document: Object) -> str:
    """The name of an object."""
    return str(meta(document).get("name") or "")


def label(document: Object, key: str) -> str:
    """The value of a label, empty if it is absent."""
    return str((meta(document).get("labels") or {}).get(key) or "")


def annotation(document: Object, key: str) -> str:
    """The value of an annotation, empty if it is absent."""
    return str((meta(document).get("annotations") or {}).get(key) or "")


def created(document: Object) -> str:
    """RFC 3339 time of creation, empty if unknown."""
    return str(meta(document).get("creationTimestamp") or "")


def terminating(document: Object) -> bool:
    """Whether somebody deleted the object already."""
    return bool(meta(document).get("deletionTimestamp"))


def node_of(pod: Object) -> str:
    """The node that a pod was given to, empty as long as there is none."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def phase(pod: Object) -> str:
    """The phase of a pod."""
    return str((pod.get("status") or {}).get("phase") or "")


def condition_of(document: Object, kind: str) -> Mapping[str, Any]:
    """A condition of a pod, Job or Deployment, empty if it is absent."""
    return find(document.get("status") or {}, kind)


def is_true(document: Object, kind: str) -> bool:
    """Whether a condition of a pod, Job or Deployment is True."""
    return condition_of(document, kind).get("status") == "True"


def ready(pod: Object) -> bool:
    """Whether traffic may go to a pod."""
    return is_true(pod, "Ready") and not terminating(pod)


def alive(pods: Iterable[Object]) -> list[Object]:
    """Pods that run or will run, the newest first."""
    living = (pod for pod in pods if not terminating(pod) and phase(pod) not in FINISHED)
    return sorted(living, key=lambda pod: (created(pod), name(pod)), reverse=True)


def runners(pods: Iterable[Object]) -> list[Object]:
    """The pods that are runners."""
    return [pod for pod in pods if label(pod, COMPONENT) == RUNNER]


def of_revision(pods: Iterable[Object], revision: str) -> list[Object]:
    """The pods that started with a revision."""
    return [pod for pod in pods if label(pod, REVISION) == revision]


def container(pod: Object, called: str) -> Mapping[str, Any]:
    """The status of a container of a pod, empty as long as the kubelet has not seen it."""
    entries = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((entry for entry in entries if entry.get("name") == called), {})


def running(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The running state of a container status, empty if it does not run."""
    return (status.get("state") or {}).get("running") or {}


def waiting(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The waiting state of a container status, empty if it does not wait."""
    return (status.get("state") or {}).get("waiting") or {}


def ended(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a container ended that has not been started again, empty if it has not."""
    return (status.get("state") or {}).get("terminated") or {}


def ended_before(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the run before the present one ended, empty if there was none."""
    return (status.get("lastState") or {}).get("terminated") or {}


def age(then: str, now: str) -> float:
    """Seconds from `then` to `now`, 0 if one of them is unknown."""
    try:
        return seconds_between(then, now)
    except ValueError:
        return 0.0


def config_changed_at(config_map: Object) -> str:
    """When the content of a ConfigMap changed last (RFC 3339), empty if never since it was made."""
    times = [str(entry.get("time") or "") for entry in meta(config_map).get("managedFields") or () if _ours(entry)]
    changed = max(times, default="")
    return changed if changed > created(config_map) else ""


def _ours(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("manager") == FIELD_MANAGER)


def serves_hash(pod: Object) -> str:
    """The hash of the configuration that a pod once told it serves, empty if none is noted."""
    hashed, _, what = annotation(pod, CONFIG_HASH).partition("@")
    return hashed if what == IN_FORCE else ""


def newer_than_config(pod: Object, changed_at: str) -> bool:
    """Whether a pod was made after the last change of its ConfigMap, so that it can have read nothing older.

    Times are whole seconds: one of the same second is not known to be newer.
    """
    return not changed_at or created(pod) > changed_at


def wants_log(pod: Object, changed_at: str, now: str) -> Literal["puller", "converter", "runner"] | None:
    """The container whose log must be read before planning, None if the pod's status tells everything.

    `changed_at` is `config_changed_at` of the pod's ConfigMap. A puller or converter that runs has progress to tell; a
    runner that is not ready for some seconds has a reason; a ready one that is older than its configuration may not
    have it yet.
    """
    role = label(pod, COMPONENT)
    began = running(container(pod, role)).get("startedAt")
    if not began or terminating(pod):
        return None
    if role == PULLER:
        return "puller"
    if role == CONVERTER:
        return "converter"
    if role != RUNNER:
        return None
    if ready(pod):
        return None if newer_than_config(pod, changed_at) else "runner"
    return "runner" if age(str(began), now) > LOG_AFTER_SECONDS else None
