"""When a Model has to be looked at again although nothing rings, and which pods must read their configuration now.

Called by `model`. Only what a log tells needs another look: everything else comes as a change of an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from paddock_operator.core.cluster.labels import COMPONENT, CONFIG_HASH, CONVERTER, IN_FORCE, PULLER, REVISION
from paddock_operator.core.cluster.model_manifests import find_config_map
from paddock_operator.core.cluster.model_runner import has_config
from paddock_operator.core.cluster.observed import ModelSeen, Object
from paddock_operator.core.cluster.pods import (
    age,
    alive,
    annotation,
    config_changed_at,
    container,
    created,
    label,
    name,
    newer_than_config,
    ready,
    runners,
    running,
    uid,
)
from paddock_operator.core.cluster.pull_job import LOST_SECONDS, find_job, is_finished, pod_of
from paddock_operator.core.cluster.trouble import CLAIM_GRACE_SECONDS, grace_left
from paddock_operator.core.cluster.types import Manifest
from paddock_operator.core.plan_types import ModelPlan
from paddock_operator.core.resources import Model

PULL_SECONDS = 10.0
RUNNER_SECONDS = 3.0
SLOW_AFTER_SECONDS = 60.0
"""A runner that is not ready for so long is looked at as rarely as a puller."""
CONFIG_SECONDS = 1.0
NUDGE_AGAIN_SECONDS = 10.0


def requeue(seen: ModelSeen, model: Model, plan: ModelPlan, nudged: bool, wait: float | None) -> float | None:
    """Seconds until the next look at the latest, None if everything that may happen rings by itself.

    A pod that is nudged now takes up a configuration that is not among what was seen yet.
    """
    times = [plan.requeue_seconds, wait, _for_the_claim(seen, plan), _for_the_job(seen, model, plan)]
    times += [CONFIG_SECONDS] if nudged else []
    times += [_for_pod(seen, model, pod) for pod in alive(seen.children.pods)]
    return min((time for time in times if time is not None), default=None)


def _for_the_claim(seen: ModelSeen, plan: ModelPlan) -> float | None:
    soon = age(created(seen.model), seen.now) < CLAIM_GRACE_SECONDS
    return CLAIM_GRACE_SECONDS if seen.claim is None and plan.pull is not None and soon else None


def _for_the_job(seen: ModelSeen, model: Model, plan: ModelPlan) -> float | None:
    """A Job that ended although its bytes are still asked for: its verdict or its pod's end has to be waited for."""
    asked = ((plan.pull, plan.pull_key), (plan.convert, plan.convert_key))
    jobs = [find_job(seen, model, key) for request, key in asked if request is not None]
    finished = [job for job in jobs if job is not None and is_finished(job)]
    unanswered = not plan.status.get("resolved") and any(pod_of(seen, job) is None for job in finished)
    return LOST_SECONDS if unanswered else None


def _for_pod(seen: ModelSeen, model: Model, pod: Object) -> float | None:
    role = label(pod, COMPONENT)
    began = str(running(container(pod, role)).get("startedAt") or "")
    if not began:
        return grace_left([pod], seen.now)
    if role in (PULLER, CONVERTER):
        return PULL_SECONDS
    if not ready(pod):
        return RUNNER_SECONDS if age(began, seen.now) < SLOW_AFTER_SECONDS else PULL_SECONDS
    config_map = find_config_map(seen, model, label(pod, REVISION))
    return CONFIG_SECONDS if config_map is not None and not has_config(seen, pod, config_map) else None


def is_waited_for(marks: Iterable[tuple[str, str]]) -> bool:
    """Whether one of the marks is a nudge, whose answer will stand in a log."""
    return any(not mark.endswith(f"@{IN_FORCE}") for _, mark in marks)


def nudges(seen: ModelSeen, model: Model, config_maps: Iterable[Manifest]) -> tuple[tuple[str, str], ...]:
    """(pod, mark) of the running runners that are older than what is planned: see `_mark`."""
    wanted = {name(document): annotation(document, CONFIG_HASH) for document in config_maps}
    return tuple(_nudged(seen, model, wanted))


def _nudged(seen: ModelSeen, model: Model, wanted: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for pod in runners(seen.children.pods):
        live = find_config_map(seen, model, label(pod, REVISION))
        hashed = wanted.get(name(live), "") if live is not None else ""
        if not hashed or live is None or not running(container(pod, label(pod, COMPONENT))):
            continue
        if _is_behind(pod, live, hashed) and (mark := _mark(seen, pod, hashed)):
            yield name(pod), mark


def _mark(seen: ModelSeen, pod: Object, hashed: str) -> str:
    """What to write on a pod that was made before this content: empty if nothing is new.

    That it serves the content is noted once: its log tells it once only, and logs are rotated. Until it says so it is
    nudged again: a kubelet that has not heard of the new ConfigMap yet mounts the old content once more.
    """
    marked, _, since = annotation(pod, CONFIG_HASH).partition("@")
    told = str((seen.events.get(uid(pod)) or {}).get("config") or "")
    if marked == hashed and since == IN_FORCE:
        return ""
    if told == hashed:
        return f"{hashed}@{IN_FORCE}"
    waits = marked == hashed and (not told or age(since, seen.now) < NUDGE_AGAIN_SECONDS)
    return "" if waits else f"{hashed}@{seen.now}"


def _is_behind(pod: Object, live: Object, hashed: str) -> bool:
    """Whether the content changes now, or did after the pod was made."""
    changes = annotation(live, CONFIG_HASH) != hashed
    return changes or not newer_than_config(pod, config_changed_at(live))
