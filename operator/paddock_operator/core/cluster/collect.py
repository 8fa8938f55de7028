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
from paddock_operator.core.cluster.labels import CACHE_PATH, COLLECTOR, COMPONENT, CONVERTER, PULLER, RUNNER
from paddock_operator.core.cluster.meta import cache_mount, cache_volume, container, metadata, pod_spec
from paddock_operator.core.cluster.network import component_selector
from paddock_operator.core.cluster.observed import NamespaceSeen, Object
from paddock_operator.core.cluster.placement import beside, to_node
from paddock_operator.core.cluster.pods import created, is_true, label, name, node_of
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.cluster.types import Manifest
from paddock_operator.core.identity import short_hash
from paddock_operator.core.plan_types import Note

PREFIX = "paddock-collect-"
LIVE = "PADDOCK_LIVE"
MAX_LIVE = 1500
"""Digests of one list: the kernel takes 128 KiB for one environment variable."""
RETRY_SECONDS = 60.0
DEADLINE_SECONDS = 3600
SHORTEST_SECONDS = 60
RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ORIGIN = ("sourceDigest", "revision", "validator")
"""Of a pin: where it came from."""


@dataclass(frozen=True, slots=True)
class Collection:
    """`start` are Jobs to apply now, `keep` names of Jobs that stay, `wait` seconds until the next ones are due."""

    start: tuple[Manifest, ...] = ()
    keep: tuple[str, ...] = ()
    wait: float | None = None
    notes: tuple[Note, ...] = ()


def plan_collection(seen: NamespaceSeen, labels: Mapping[str, str]) -> Collection:
    """Decide about the collector of a namespace. `labels` are those of namespace objects."""
    jobs = sorted((job for job in seen.children.jobs if _is_collector(job)), key=lambda job: (created(job), name(job)))
    keep = tuple(name(job) for job in jobs if _round(job) == _round(jobs[-1]) or not _is_finished(job))
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
    return Collection(tuple(_job(seen, labels, due, digests, node) for node in _nodes(seen)), keep)


def _round(job: Object) -> str:
    """What the Jobs that were made together have in common: the time when they were due."""
    return name(job).removeprefix(PREFIX).partition("-")[0]


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


def _deadline(settings: Settings) -> int:
    """Seconds that a collector may run: what was pulled since its list was made must be too young for it."""
    return min(DEADLINE_SECONDS, max(settings.collect_min_age_seconds, SHORTEST_SECONDS))


def live_digests(seen: NamespaceSeen) -> list[str]:
    """Every digest of a manifest that may be needed, sorted: of specs, statuses and serve configurations in use.

    What a conversion was made of is needed until it is done, and not after.
    """
    found: set[str] = set()
    for model in seen.models:
        found.update(_digests(model.get("spec")))
        status = model.get("status") or {}
        pin = {name: value for name, value in (status.get("resolved") or {}).items() if name not in _ORIGIN}
        found.update(_digests(pin), _digests(status.get("conversion")))
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


def _job(seen: NamespaceSeen, labels: Mapping[str, str], due: int, digests: list[str], node: str) -> dict[str, Any]:
    marked = {**labels, COMPONENT: COLLECTOR}
    # named by the time when it was due: whoever plans it again plans the same Job
    called = f"{PREFIX}{due}-{short_hash({'node': node})[:8]}" if node else f"{PREFIX}{due}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(called, seen.namespace, marked),
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": _deadline(seen.settings),
            "template": {"metadata": {"labels": marked}, "spec": _pod(seen, digests, node)},
        },
    }


def _pod(seen: NamespaceSeen, digests: list[str], node: str) -> dict[str, Any]:
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
    return pod_spec("paddock-puller", images, [collector], [volume], restartPolicy="Never", **_where(seen, node))


def _where(seen: NamespaceSeen, node: str) -> dict[str, Any]:
    """On that node; without one beside runners: a volume that one node holds is there already."""
    affinity = to_node(node) if node else beside(component_selector(RUNNER))
    tolerations = _tolerations(seen)
    return {"affinity": affinity} | ({"tolerations": tolerations} if tolerations else {})


def _tolerations(seen: NamespaceSeen) -> list[Any]:
    """Those of all Models: a cache is where one of them runs."""
    placements = ((model.get("spec") or {}).get("placement") or {} for model in seen.models)
    found = [entry for placement in placements for entry in placement.get("tolerations") or ()]
    return [entry for index, entry in enumerate(found) if entry not in found[:index]]


def _nodes(seen: NamespaceSeen) -> list[str]:
    """In mode Node every node has a cache of its own: those where pods use it, or brought bytes. Else none is named."""
    if seen.settings.cache.mode != "Node":
        return [""]
    users = (pod for pod in seen.pods if label(pod, COMPONENT) in (PULLER, CONVERTER, RUNNER))
    return sorted(set(map(node_of, users)) - {""})
