"""What is seen of a Model's runners: which revision is ready with which configuration, and what goes wrong.

Called by `model`. The answer is about the pods of one revision, the one that is wanted; only the counts are of all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from paddock_operator.core.cluster.labels import CONFIG_HASH, RUNNER, revision_of
from paddock_operator.core.cluster.model_manifests import find_config_map, live_config
from paddock_operator.core.cluster.observed import ModelSeen, Object
from paddock_operator.core.cluster.pods import (
    age,
    alive,
    annotation,
    condition_of,
    config_changed_at,
    container,
    ended,
    ended_before,
    newer_than_config,
    of_revision,
    phase,
    ready,
    runners,
    running,
    serves_hash,
    terminating,
    uid,
)
from paddock_operator.core.cluster.trouble import Trouble, how_it_ended, not_created, pod_trouble
from paddock_operator.core.cluster.verdict import printable
from paddock_operator.core.conditions import PULL_REASONS
from paddock_operator.core.observed import RunnerObserved
from paddock_operator.core.resources import Model

LOADING_SECONDS = 10.0
"""A load that is shorter than this is not worth a status of its own."""
WAITS_FOR_BYTES = "waiting for the model to be in the cache"
MISSING_SECONDS = 20.0
HASHED_PER_SECOND = 50_000_000
"""A runner may hash everything before it loads: for so long it has not found out yet whether bytes are missing."""
ABSENT_SECONDS = 60.0
"""A pull that is this old and whose bytes a runner does not find is repeated: something took them away."""
REPEAT_SECONDS = 300.0
"""A runner looks again at bytes that it found damaged after this time at the latest."""
MAX_WORDS = 600
_ORDER = ("crashed", "loading", "starting")


def observe_runner(seen: ModelSeen, model: Model, config: Mapping[str, Any] | None) -> RunnerObserved:
    """The runners of the revision of `config` (None: none is wanted), and the counts of all."""
    living = alive(runners(seen.children.pods))
    counts = len(living), sum(map(ready, living))
    if config is None:
        return RunnerObserved("none", counts=counts)
    revision = revision_of(dict(config))
    target = of_revision(living, revision)
    serving = [pod for pod in target if ready(pod)]
    others = [_unready(pod, seen) for pod in target if not ready(pod)]
    if serving:
        reason, message = _trouble_of(others)
        return replace(_serving(seen, model, revision, serving), counts=counts, reason=reason, message=message)
    others.sort(key=lambda view: (_ORDER.index(view.state), bool(view.reason)))
    view = others[0] if others else _without_pod(seen, revision)
    return replace(view, counts=counts)


def _trouble_of(views: Iterable[RunnerObserved]) -> tuple[str, str]:
    """(reason, message) of the first pod with trouble beside those that serve."""
    view = next((view for view in views if view.reason or view.state == "crashed"), None)
    return (view.reason or "Crashed", view.message) if view else ("", "")


def _serving(seen: ModelSeen, model: Model, revision: str, pods: Iterable[Object]) -> RunnerObserved:
    config_map = find_config_map(seen, model, revision)
    config = live_config(config_map) or {}
    wanted = annotation(config_map, CONFIG_HASH) if config_map else ""
    sure = config_map is not None and all(has_config(seen, pod, config_map) for pod in pods)
    told = [event for event in map(seen.events.get, map(uid, pods)) if event and event.get("ready") is True]
    memory = told[-1].get("memory") if told else None
    return RunnerObserved(
        "ready",
        config_hash=wanted if sure else "",
        digest=str(config.get("digest") or ""),
        memory=_memory(memory),
    )


def has_config(seen: ModelSeen, pod: Object, config_map: Object) -> bool:
    """Whether a pod serves with the content that its ConfigMap has now."""
    if newer_than_config(pod, config_changed_at(config_map)):
        return True
    if serves_hash(pod) == annotation(config_map, CONFIG_HASH):
        return True
    event = seen.events.get(uid(pod)) or {}
    return bool(event.get("config")) and event.get("config") == annotation(config_map, CONFIG_HASH)


def _unready(pod: Object, seen: ModelSeen) -> RunnerObserved:
    trouble = pod_trouble(pod, RUNNER, seen)
    if trouble:
        return _troubled(trouble)
    status = container(pod, RUNNER)
    event = (seen.events.get(uid(pod)) or {}) if running(status) else {}
    last = ended(status) or ended_before(status)
    restarts = int(status.get("restartCount") or 0)
    if _whole(event, "restarts") and event.get("reason"):
        return _lost_engine(pod, event, restarts)
    if last:
        reason = "OOMKilled" if last.get("reason") == "OOMKilled" else ""
        cure = _more_memory(pod) if reason else ""
        return RunnerObserved("crashed", restarts=max(restarts, 1), reason=reason, message=how_it_ended(last) + cure)
    return _on_its_way(status, event, seen)


def repeat_after(runner: RunnerObserved) -> float:
    """Seconds after which a pull that ended well is repeated as a runner misses its bytes; infinite if none does."""
    if not runner.bytes_missing:
        return math.inf
    return ABSENT_SECONDS if runner.message.startswith(WAITS_FOR_BYTES) else REPEAT_SECONDS


def lacks_bytes(pod: Object, seen: ModelSeen) -> bool:
    """Whether a runner says that the bytes which it waited for are not there, or damaged."""
    return not ready(pod) and _unready(pod, seen).bytes_missing


def _lost_engine(pod: Object, event: Mapping[str, Any], restarts: int) -> RunnerObserved:
    """The front lives and starts its engine again and again; its last error stays the truth until it is ready."""
    starved = _whole(event, "oomKills") > 0
    words = printable(str(event["reason"]), MAX_WORDS) + (_more_memory(pod) if starved else "")
    count = restarts + _whole(event, "restarts")
    return RunnerObserved("crashed", restarts=count, reason="OOMKilled" if starved else "", message=words)


def _on_its_way(status: Mapping[str, Any], event: Mapping[str, Any], seen: ModelSeen) -> RunnerObserved:
    began = str(running(status).get("startedAt") or "")
    lasts = age(began, seen.now)
    said = str(event.get("reason") or "")
    if _speaks_of_the_cache(said) and lasts >= MISSING_SECONDS + _size(seen) / HASHED_PER_SECOND:
        return RunnerObserved("starting", message=printable(said, MAX_WORDS), bytes_missing=True)
    if event.get("state") == "loading" and lasts >= LOADING_SECONDS:
        return RunnerObserved("loading")
    return RunnerObserved("starting")


def _speaks_of_the_cache(said: str) -> bool:
    return said == WAITS_FOR_BYTES or said.partition(":")[0] in PULL_REASONS


def _size(seen: ModelSeen) -> int:
    return int(((seen.model.get("status") or {}).get("resolved") or {}).get("size") or 0)


def _troubled(trouble: Trouble) -> RunnerObserved:
    return RunnerObserved("starting", reason=trouble.reason, message=trouble.message)


def _without_pod(seen: ModelSeen, revision: str) -> RunnerObserved:
    deployment = next(iter(seen.children.deployments), None)
    refused = condition_of(deployment, "ReplicaFailure") if deployment else {}
    if refused.get("status") == "True":
        return _troubled(not_created(str(refused.get("message") or "")))
    dead = [pod for pod in runners(seen.children.pods) if phase(pod) == "Failed" and not terminating(pod)]
    for pod in of_revision(dead, revision):
        trouble = pod_trouble(pod, RUNNER, seen)
        if trouble:
            return _troubled(trouble)
    return RunnerObserved("starting" if deployment else "none")


def _more_memory(pod: Object) -> str:
    specs = (pod.get("spec") or {}).get("containers") or ()
    limits = [(item.get("resources") or {}).get("limits") or {} for item in specs if item.get("name") == RUNNER]
    limit = next((str(entry["memory"]) for entry in limits if entry.get("memory")), "that of its node")
    return f"; its memory limit is {limit}: raise spec.resources.memory or lower spec.serving.contextLength or slots"


def _whole(event: Mapping[str, Any], name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _memory(found: Any) -> dict[str, int]:
    items = found.items() if isinstance(found, Mapping) else ()
    return {str(name): value for name, value in items if isinstance(value, int) and value > 0}
