"""The Job that removes bytes which no Model needs: when it is due, which digests stay, and its manifest.

Called by `namespace`. The collector spares young files and running pulls by itself; here it is made sure that its list
is complete, and that no Job is started with one that may not be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.clock import unix_seconds
from paddock_operator.core.cluster.labels import CACHE_PATH, COLLECTOR, COMPONENT, PULLER, RUNNER
from paddock_operator.core.cluster.meta import cache_mount, cache_volume, container, metadata, pod_spec
from paddock_operator.core.cluster.network import component_selector
from paddock_operator.core.cluster.observed import NamespaceSeen, Object
from paddock_operator.core.cluster.pods import created, is_true, label, name
from paddock_operator.core.cluster.types import Manifest
from paddock_operator.core.plan_types import Note

LIVE = "PADDOCK_LIVE"
MAX_LIVE = 1500
"""Digests of one list: the kernel takes 128 KiB for one environment variable."""
RETRY_SECONDS = 60.0
DEADLINE_SECONDS = 3600
HOST = "kubernetes.io/hostname"
RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Collection:
    """`start` is the Job to apply now, `keep` are names of Jobs that stay, `wait` seconds until the next one is due."""

    start: Manifest | None = None
    keep: tuple[str, ...] = ()
    wait: float | None = None
    notes: tuple[Note, ...] = ()


def plan_collection(seen: NamespaceSeen, labels: Mapping[str, str]) -> Collection:
    """Decide about the collector of a namespace. `labels` are those of namespace objects."""
    jobs = sorted((job for job in seen.children.jobs if _is_collector(job)), key=lambda job: (created(job), name(job)))
    keep = tuple(name(job) for job in jobs if job is jobs[-1] or not _is_finished(job))
    due = _due(seen, jobs)
    if due is None or any(not _is_finished(job) for job in jobs):
        return Collection(keep=keep)
    wait = float(due - unix_seconds(seen.now))
    if wait > 0:
        return Collection(keep=keep, wait=wait)
    if seen.claim is None or any(_is_new(model) for model in seen.models):
        return Collection(keep=keep, wait=RETRY_SECONDS)
    return _start(seen, labels, due, keep)


def _start(seen: NamespaceSeen, labels: Mapping[str, str], due: int, keep: tuple[str, ...]) -> Collection:
    digests = live_digests(seen)
    if not digests:
        return Collection(keep=keep, wait=float(seen.settings.collect_seconds))
    if len(digests) > MAX_LIVE:
        words = (
            f"{len(digests)} digests are in use, a collector takes {MAX_LIVE}; nothing is removed; use more namespaces"
        )
        return Collection(
            keep=keep, wait=float(seen.settings.collect_seconds), notes=(Note("CollectorSkipped", words),)
        )
    return Collection(_job(seen, labels, due, digests), keep)


def _is_collector(job: Object) -> bool:
    return label(job, COMPONENT) == COLLECTOR


def _is_finished(job: Object) -> bool:
    return is_true(job, "Complete") or is_true(job, "Failed")


def _due(seen: NamespaceSeen, jobs: list[Object]) -> int | None:
    """Unix seconds of the next collection; None in a namespace without Models: what they left may be wanted again."""
    born = [created(item) for item in (jobs[-1:] or seen.models) if created(item)]
    return unix_seconds(min(born)) + seen.settings.collect_seconds if born and seen.models else None


def _is_new(model: Object) -> bool:
    """Whether a Model was never looked at: what it needs is not known."""
    return not (model.get("status") or {}).get("observedGeneration")


def live_digests(seen: NamespaceSeen) -> list[str]:
    """Every digest of a manifest that may be needed, sorted: of specs, statuses and serve configurations in use."""
    found: set[str] = set()
    for model in seen.models:
        found.update(_digests(model.get("spec")))
        status = model.get("status") or {}
        found.update(_digests(status.get("resolved")))
        found.update(_digests(status.get("history")))
    for item in seen.model_config_maps:
        found.update(_digests((item.get("data") or {}).get("serve.json")))
    return sorted(found)


def _digests(value: Any) -> Iterator[str]:
    """Whatever looks like a digest, at any depth: a blob's among them does no harm, a missing manifest's would."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, str):
        yield from _DIGEST.findall(value)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _digests(item)


def _job(seen: NamespaceSeen, labels: Mapping[str, str], due: int, digests: list[str]) -> dict[str, Any]:
    marked = {**labels, COMPONENT: COLLECTOR}
    nodes = _nodes(seen)
    spec: dict[str, Any] = {
        "backoffLimit": 3,
        "activeDeadlineSeconds": DEADLINE_SECONDS,
        "template": {"metadata": {"labels": marked}, "spec": _pod(seen, digests, nodes)},
    }
    if len(nodes) > 1:
        spec |= {"completions": len(nodes), "parallelism": len(nodes)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        # named by the time when it was due: whoever plans it again plans the same Job
        "metadata": metadata(f"paddock-collect-{due}", seen.namespace, marked),
        "spec": spec,
    }


def _pod(seen: NamespaceSeen, digests: list[str], nodes: list[str]) -> dict[str, Any]:
    images = seen.settings.images
    live, min_age = json.dumps({"digests": digests}, separators=(",", ":")), seen.settings.collect_min_age_seconds
    collector = container(
        COLLECTOR,
        images.gateway,
        images,
        ["collect", "--models", CACHE_PATH, "--live", f"env:{LIVE}", "--min-age", str(min_age)],
        RESOURCES,
        env=[(LIVE, live)],
        mounts=[cache_mount(CACHE_PATH, read_only=False)],
        terminationMessagePolicy="FallbackToLogsOnError",
    )
    volume = cache_volume(seen.settings.cache.claim_name, read_only=False)
    affinity = _each(nodes) if nodes else _beside()
    return pod_spec("paddock-puller", images, [collector], [volume], restartPolicy="Never", affinity=affinity)


def _nodes(seen: NamespaceSeen) -> list[str]:
    """In mode Node every node has a cache of its own: those where pods use it now. Else none is named."""
    if seen.settings.cache.mode != "Node":
        return []
    users = (pod for pod in seen.pods if label(pod, COMPONENT) in (PULLER, RUNNER))
    return sorted({str((pod.get("spec") or {}).get("nodeName") or "") for pod in users} - {""})


def _beside() -> dict[str, Any]:
    """Where the runners are: a volume that one node holds is there already."""
    term = {"labelSelector": component_selector(RUNNER), "topologyKey": HOST}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _each(nodes: list[str]) -> dict[str, Any]:
    """One collector on each of these nodes."""
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]} for node in nodes]
    apart = {"labelSelector": component_selector(COLLECTOR), "topologyKey": HOST}
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]},
    }
