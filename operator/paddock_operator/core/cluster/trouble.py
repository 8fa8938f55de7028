"""Why a pod does not run: a reason of the closed list, and a sentence that says what was seen and what helps.

Called by `pull_job`, `model_runner` and `endpoint_trouble`. Sentences are equal from pass to pass as long as nothing
changes: retries, random names and the kubelet's alternating words are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.cluster.pods import age, condition_of, container, created, ended, phase, uid, waiting
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.cluster.verdict import printable

GRACE_SECONDS = 3.0
"""A pod may be unschedulable for a moment (its claim is being bound) without anybody hearing of it."""
CLAIM_GRACE_SECONDS = 5.0
MAX_WORDS = 400
ROOM = "make room, or change spec.resources or placement"
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError")
_MOUNTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_SECRET = re.compile(r'secrets? "([^"]{1,253})" not found')
_RANDOM_NAME = re.compile(r'pods? "[^"]*"')


class Seen(Protocol):
    """What is read here of a `ModelSeen`, or of what stands for it."""

    @property
    def warnings(self) -> Mapping[str, tuple[str, str]]: ...
    @property
    def claim(self) -> Object | None: ...
    @property
    def now(self) -> str: ...
    @property
    def settings(self) -> Settings: ...


@dataclass(frozen=True, slots=True)
class Trouble:
    """`reason` is one of `conditions.POD_REASONS`."""

    reason: str
    message: str


def pod_trouble(pod: Object, called: str, seen: Seen, fix: str = ROOM) -> Trouble | None:
    """What keeps the container `called` of a pod from its first run, or threw the pod out; None if nothing does.

    `fix` says what helps if no node takes the pod.
    """
    if phase(pod) == "Failed" and not ended(container(pod, called)):
        return _thrown_out(pod)
    unplaced = condition_of(pod, "PodScheduled")
    if unplaced.get("status") == "False":
        return _unschedulable(pod, unplaced, seen, fix)
    state = waiting(container(pod, called))
    reason, words = str(state.get("reason") or ""), str(state.get("message") or "")
    if reason in _IMAGE:
        return Trouble("ImagePullBackOff", _image(pod, called, reason, words))
    if reason in _CONFIG:
        return _secret(words) or Trouble(
            "CreateContainerConfigError", f"the container cannot be made: {_short(words) or reason}; it is tried again"
        )
    starting = reason in ("ContainerCreating", "PodInitializing") or not container(pod, called)
    return _not_mounted(pod, called, seen) if starting else None


def _thrown_out(pod: Object) -> Trouble:
    status = pod.get("status") or {}
    why = str(status.get("reason") or "the node gave no reason")
    words = _short(str(status.get("message") or ""))
    return Trouble("Evicted", f"the pod was thrown out of its node ({why}){': ' if words else ''}{words}")


def _unschedulable(pod: Object, condition: Mapping[str, Any], seen: Seen, fix: str) -> Trouble | None:
    since = str(condition.get("lastTransitionTime") or created(pod))
    if 0 < age(since, seen.now) < GRACE_SECONDS or since == seen.now:
        return None
    words = _short(str(condition.get("message") or "no node takes the pod").partition(" preemption:")[0])
    unbound = claim_trouble(seen)
    if unbound and ("persistentvolume" in words.lower() or seen.settings.cache.claim_name in words):
        return Trouble("CacheUnbound", f"{unbound}: {words}")
    return Trouble("Unschedulable", f"no node takes the pod: {words.rstrip('.')}; {fix}")


def claim_trouble(seen: Seen) -> str:
    """Why the cache claim cannot be used, empty if it is bound."""
    cache = seen.settings.cache
    if seen.claim is None:
        return f"PersistentVolumeClaim {cache.claim_name} does not exist; the operator makes it if it may"
    state = str((seen.claim.get("status") or {}).get("phase") or "Pending")
    if state == "Bound":
        return ""
    spec = seen.claim.get("spec") or {}
    wanted = ((spec.get("resources") or {}).get("requests") or {}).get("storage", cache.size)
    of_class = spec.get("storageClassName") or "the default StorageClass"
    return (
        f"PersistentVolumeClaim {cache.claim_name} ({wanted} of {of_class}) is {state}; "
        "provide that StorageClass or a PersistentVolume that it can bind"
    )


def _image(pod: Object, called: str, reason: str, words: str) -> str:
    # the kubelet alternates between the error and a back-off that quotes it
    cause = _short(words.rpartition("ErrImagePull: ")[2])
    specs = (pod.get("spec") or {}).get("containers") or ()
    image = next((str(item.get("image")) for item in specs if item.get("name") == called), "unknown")
    if reason == "InvalidImageName":
        return f"{image} is not the name of an image; correct the operator's setting images"
    return (
        f"image {image} cannot be pulled: {cause or reason}; check the operator's setting images and its pull secrets"
    )


def _not_mounted(pod: Object, called: str, seen: Seen) -> Trouble | None:
    reason, words = seen.warnings.get(uid(pod), ("", ""))
    if reason in _MOUNTS:
        return _secret(words) or Trouble("FailedMount", f"a volume cannot be mounted: {_short(words)}")
    if reason == "FailedCreatePodSandBox":
        return Trouble("FailedCreate", f"the node cannot make the pod: {_short(words)}")
    return None


def _secret(words: str) -> Trouble | None:
    found = _SECRET.search(words)
    return (
        Trouble("SecretNotFound", f"Secret {found[1]} does not exist in this namespace; create it") if found else None
    )


def not_created(words: str) -> Trouble:
    """The trouble of a Job or Deployment that may not make pods (a quota, an admission policy)."""
    return Trouble("FailedCreate", f"no pod can be made: {_short(_RANDOM_NAME.sub('a pod', words))}")


def how_it_ended(state: Mapping[str, Any]) -> str:
    """The end of a container in words: its exit code or signal, and what the kernel did."""
    if state.get("reason") == "OOMKilled":
        return "it ran out of its memory limit (OOMKilled)"
    code = state.get("exitCode")
    signal = state.get("signal") or (code - 128 if isinstance(code, int) and 128 < code < 160 else 0)
    said = last_words(str(state.get("message") or ""))
    return f"{f'signal {signal}' if signal else f'exit code {code}'}{': ' if said else ''}{said}"


def last_words(log: str) -> str:
    """The message of the last log line of a program of ours, without its time; the line itself if it is another's."""
    lines = [line for line in log.splitlines() if line.strip()]
    if not lines:
        return ""
    try:
        entry = json.loads(lines[-1])
    except (ValueError, RecursionError):
        return _short(lines[-1])
    return _short(str(entry.get("message") or entry.get("reason") or "")) if isinstance(entry, dict) else ""


def _short(words: str) -> str:
    return printable(words, MAX_WORDS)


def grace_left(pods: Iterable[Object], now: str) -> float | None:
    """Seconds until a pod that no node took just now is called Unschedulable, None if there is no such pod."""
    return GRACE_SECONDS if any(_just_unplaced(pod, now) for pod in pods) else None


def _just_unplaced(pod: Object, now: str) -> bool:
    unplaced = condition_of(pod, "PodScheduled")
    since = str(unplaced.get("lastTransitionTime") or created(pod))
    return unplaced.get("status") == "False" and age(since, now) < GRACE_SECONDS
