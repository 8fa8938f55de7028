"""The Jobs that bring a Model's bytes into the cache and convert them: manifests, and what is seen of them.

Called by `model` and `node_pulls`. A Job answers one pull key (or `convert_key`) and is kept when it ended, so that a
restart of the operator writes nothing. Its pod template cannot change: a Job whose pod could not start yet is made anew
when the operator would make another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from paddock_operator.core.cluster.labels import (
    COMPONENT,
    CONVERTER,
    NODE,
    PULL_KEY,
    PULLER,
    common_labels,
    pull_job_name,
)
from paddock_operator.core.cluster.meta import TEMPLATE_HASH, metadata, template_hash
from paddock_operator.core.cluster.observed import ModelSeen, Object
from paddock_operator.core.cluster.pods import (
    age,
    annotation,
    condition_of,
    created,
    ended,
    ended_before,
    is_true,
    label,
    meta,
    running,
    terminating,
    uid,
)
from paddock_operator.core.cluster.pods import container as container_status
from paddock_operator.core.cluster.pull_pod import converter_pod, puller_pod
from paddock_operator.core.cluster.trouble import (
    CLAIM_GRACE_SECONDS,
    claim_trouble,
    how_it_ended,
    not_created,
    pod_trouble,
)
from paddock_operator.core.cluster.verdict import Verdict, read_verdict
from paddock_operator.core.identity import canonical_json
from paddock_operator.core.model_conditions import percent
from paddock_operator.core.observed import PullObserved
from paddock_operator.core.plan_conversion import KEY_END
from paddock_operator.core.resources import Model

MEMORY = "paddock.dev/memory"
"""Annotation of a conversion: the bytes of memory that it was given."""
LOST_SECONDS = 30.0
"""A pod's end may be seen later than its Job's; after this time it is gone, and its verdict with it."""


def pull_job(seen: ModelSeen, model: Model, key: str, request: Mapping[str, Any], node: str = "") -> dict[str, Any]:
    """The Job that answers a pull key, anywhere or on one node. `request` is that of the contracts."""
    template = partial(puller_pod, seen, model, node=node)
    return _job(seen, model, PULLER, pull_job_name(model.ref, key, node), _marks(key, node), template, request)


def convert_job(
    seen: ModelSeen, model: Model, key: str, request: Mapping[str, Any], memory: int, *, node: str = "", name: str = ""
) -> dict[str, Any]:
    """The Job that answers a `convert_key`; `memory` in bytes. `name`: another one than follows from key and node."""
    template = partial(converter_pod, seen, model, node=node, memory=memory)
    marks = _marks(key, node) | {MEMORY: str(memory)}
    return _job(seen, model, CONVERTER, name or pull_job_name(model.ref, key, node), marks, template, request)


def _marks(key: str, node: str) -> dict[str, str]:
    return {PULL_KEY: key} | ({NODE: node} if node else {})


def _job(
    seen: ModelSeen,
    model: Model,
    component: str,
    called: str,
    marks: Mapping[str, str],
    pod: Callable[..., dict[str, Any]],
    request: Mapping[str, Any],
) -> dict[str, Any]:
    labels = common_labels(model.ref, component)
    marked = {**marks, TEMPLATE_HASH: template_hash(pod(request=""))}
    text = canonical_json(request).decode().rstrip("\n")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(called, model.ref.namespace, labels, marked, seen.model),
        "spec": {
            # a retryable error is tried again by the kubelet in the same pod, for ever
            "backoffLimit": 2147483647,
            "template": {"metadata": {"labels": labels}, "spec": pod(request=text)},
        },
    }


def find_job(seen: ModelSeen, model: Model, key: str) -> Object | None:
    """The live Job of a pull key."""
    name = pull_job_name(model.ref, key)
    return next((job for job in seen.children.jobs if meta(job).get("name") == name), None)


def is_finished(job: Object) -> bool:
    """Whether a Job ended."""
    return is_true(job, "Complete") or is_true(job, "Failed")


def observe_pull(seen: ModelSeen, model: Model, key: str) -> PullObserved:
    """What is seen of the pull with this key."""
    job = find_job(seen, model, key)
    return _not_started(seen, key) if job is None else observe_job(seen, job, key)


def observe_job(seen: ModelSeen, job: Object, key: str) -> PullObserved:
    """What is seen of a live Job that pulls for a key."""
    pod = pod_of(seen, job)
    if pod is None:
        return _without_pod(seen, job, key)
    role = label(job, COMPONENT) or PULLER
    status = container_status(pod, role)
    tries = int(status.get("restartCount") or 0) + 1
    now_ended, before = ended(status), ended_before(status)
    trouble = None if now_ended else pod_trouble(pod, role, seen)
    if now_ended:
        return _after(key, now_ended, tries, role)
    if trouble:
        return PullObserved("failed", key, 0, 0, None, trouble.reason, trouble.message, True, 0)
    event = seen.events.get(uid(pod)) or {}
    if running(status) and event.get("event") == "progress":
        total = _bytes(event.get("total"))
        # whole percents: what a status says more exactly would be written more often
        done = total * percent(_bytes(event.get("completed")), total) // 100
        return PullObserved("running", key, done, total, attempts=tries)
    # until an attempt has something to show, the last one's error is the truth: it would come and go otherwise
    return _after(key, before, tries, role) if before else PullObserved("running", key, attempts=tries)


def _not_started(seen: ModelSeen, key: str) -> PullObserved:
    born = created(seen.model)
    if seen.claim is None and born and age(born, seen.now) >= CLAIM_GRACE_SECONDS:
        return PullObserved("failed", key, reason="CacheUnbound", message=claim_trouble(seen), retryable=True)
    return PullObserved()


def pod_of(seen: ModelSeen, job: Object) -> Object | None:
    """The pod of a Job that counts: one with a verdict, else the newest."""
    owned = [pod for pod in seen.children.pods if _owned_by(pod, job)]
    return max(owned, key=lambda pod: (_has_verdict(pod), not terminating(pod), created(pod)), default=None)


def _owned_by(pod: Object, job: Object) -> bool:
    owners = meta(pod).get("ownerReferences") or ()
    return any(owner.get("uid") == uid(job) for owner in owners)


def _has_verdict(pod: Object) -> bool:
    state = ended(container_status(pod, label(pod, COMPONENT)))
    return state.get("exitCode") == 0 and bool(state.get("message"))


def _without_pod(seen: ModelSeen, job: Object, key: str) -> PullObserved:
    reason, words = seen.warnings.get(uid(job), ("", ""))
    if reason == "FailedCreate" and not is_finished(job):
        return PullObserved("failed", key, reason=reason, message=not_created(words).message, retryable=True)
    return PullObserved() if is_finished(job) and _answered(seen, job) else PullObserved("running", key)


def _after(key: str, state: Mapping[str, Any], tries: int, role: str) -> PullObserved:
    """What an ended container says of the pull."""
    verdict = read_verdict(str(state.get("message") or ""))
    if verdict is None:
        return _crashed(key, state, tries, role)
    if verdict.result:
        return PullObserved("succeeded", key, result=verdict.result, attempts=tries)
    return PullObserved("failed", key, 0, 0, None, verdict.reason, _cure(verdict), verdict.retryable, tries)


def _cure(verdict: Verdict) -> str:
    if verdict.retryable:
        return verdict.message
    return f"{verdict.message}; to try again, edit spec.source (spec.source.resolve takes any new word)"


def _crashed(key: str, state: Mapping[str, Any], tries: int, role: str) -> PullObserved:
    reason = "OOMKilled" if state.get("reason") == "OOMKilled" else "PullerCrashed"
    message = f"the {role} ended without a verdict: {how_it_ended(state)}"
    return PullObserved("failed", key, 0, 0, None, reason, message, state.get("exitCode") != 0, tries)


def _bytes(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def must_go(seen: ModelSeen, model: Model, job: Object, suspended: bool, repeat: float) -> bool:
    """Whether a live Job of the wanted key has to be made anew (or, while suspended, to end)."""
    if not is_finished(job):
        return suspended or _outdated(seen, model, job)
    if is_true(job, "Failed"):
        return True
    if not suspended and _failed(seen, job) and _outdated(seen, model, job):
        # what failed may be allowed now, or mended by another puller; a new Job is not outdated, so this is done once
        return True
    lost = pod_of(seen, job) is None and not _answered(seen, job) and not suspended
    since = _settled_for(seen, job)
    return since >= repeat or (lost and since >= LOST_SECONDS)


def _failed(seen: ModelSeen, job: Object) -> bool:
    """Whether the verdict of a finished Job is there and is an error."""
    return observe_job(seen, job, annotation(job, PULL_KEY)).state == "failed"


def _answered(seen: ModelSeen, job: Object) -> bool:
    """Whether the status holds what this Job found: a digest, or (of a pull) what has to be converted."""
    status, key = seen.model.get("status") or {}, annotation(job, PULL_KEY)
    if (status.get("conversion") or {}).get("pullKey") == key:
        return True
    return bool((status.get("resolved") or {}).get("pullKey") == key.partition(KEY_END)[0])


def _settled_for(seen: ModelSeen, job: Object) -> float:
    done = (job.get("status") or {}).get("completionTime") or condition_of(job, "Complete").get("lastTransitionTime")
    return age(str(done or ""), seen.now)


def _outdated(seen: ModelSeen, model: Model, job: Object) -> bool:
    """Another Job would be made now, and nothing would be lost by it."""
    pod = pod_of(seen, job)
    busy = pod is not None and bool(running(container_status(pod, label(job, COMPONENT))))
    return not busy and annotation(job, TEMPLATE_HASH) != template_hash(_empty_pod(seen, model, job))


def _empty_pod(seen: ModelSeen, model: Model, job: Object) -> dict[str, Any]:
    """The pod that would be made now, without its request."""
    node, memory = annotation(job, NODE), annotation(job, MEMORY)
    if label(job, COMPONENT) == CONVERTER:
        return converter_pod(seen, model, "", node, int(memory) if memory.isdecimal() else 0)
    return puller_pod(seen, model, "", node)
