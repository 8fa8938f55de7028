"""Caches in mode Node: Jobs that bring a Model's bytes to each node where a runner waits for them. Called by `model`.

The first pull of a key runs anywhere; it finds the digest, and its node has the bytes. Every other node gets a Job of
its own, pinned to it, that is asked for exactly that digest, and a conversion of its own if the first had one. A Job
that ended is kept as the record that its node has the bytes, as long as the pin holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from paddock_operator.core.cluster.labels import NODE, PULL_KEY, REVISION, pull_job_name
from paddock_operator.core.cluster.model_manifests import find_config_map, live_config
from paddock_operator.core.cluster.model_runner import REPEAT_SECONDS, lacks_bytes
from paddock_operator.core.cluster.observed import ModelSeen, Object
from paddock_operator.core.cluster.origins import origin_of
from paddock_operator.core.cluster.pods import alive, annotation, label, name, node_of, ready, runners, terminating
from paddock_operator.core.cluster.pull_job import (
    convert_job,
    find_job,
    is_finished,
    must_go,
    observe_job,
    pod_of,
    pull_job,
)
from paddock_operator.core.cluster.types import Manifest
from paddock_operator.core.identity import source_hash
from paddock_operator.core.observed import PullObserved
from paddock_operator.core.plan_conversion import Making, recalled
from paddock_operator.core.plan_pin import pinned_request
from paddock_operator.core.resources import Model


@dataclass(frozen=True, slots=True)
class Nodes:
    """`key` and `digest` are those of the pin. `placed`: nodes that have runners. `waiting`: those whose runners do not
    have the bytes as far as is known, and whether one says that it looked in vain. `jobs`: the live pulls by node,
    `conversions` the live conversions; `making`: the conversion that every node needs, None if there is none.
    """

    key: str
    digest: str
    held: Mapping[str, Any]
    placed: frozenset[str]
    waiting: Mapping[str, bool]
    jobs: Mapping[str, Object]
    conversions: Mapping[str, Object]
    making: Making | None


def _look(seen: ModelSeen, model: Model) -> Nodes | None:
    """What there is to know about nodes, None if they share their cache or nothing is pinned."""
    pin = (seen.model.get("status") or {}).get("resolved") or {}
    key, digest = str(pin.get("pullKey") or ""), str(pin.get("digest") or "")
    fits = pin.get("sourceHash") == source_hash(model.spec.source, model.spec.quantization)
    if seen.settings.cache.mode != "Node" or not (key and digest and fits):
        return None
    pods: dict[str, list[Object]] = {}
    for pod in alive(runners(seen.children.pods)):
        pods.setdefault(node_of(pod), []).append(pod)
    pods.pop("", None)
    making = recalled(seen.model.get("status") or {}, pin, key)
    waiting = dict(_waiting(seen, model, making.key if making else key, digest, pods))
    conversions = _pinned(seen, model, making.key) if making else {}
    return Nodes(key, digest, pin, frozenset(pods), waiting, _pinned(seen, model, key), conversions, making)


def _pinned(seen: ModelSeen, model: Model, key: str) -> dict[str, Object]:
    """The live Jobs of a key that are their nodes' own."""
    first = pull_job_name(model.ref, key)
    found = (job for job in seen.children.jobs if annotation(job, PULL_KEY) == key and name(job) != first)
    return {annotation(job, NODE): job for job in found if annotation(job, NODE)}


def _waiting(
    seen: ModelSeen, model: Model, key: str, digest: str, pods: Mapping[str, list[Object]]
) -> Iterable[tuple[str, bool]]:
    first = _first_node(seen, model, key)
    for node, found in sorted(pods.items()):
        missing = any(lacks_bytes(pod, seen) for pod in found)
        served = any(ready(pod) and _digest_of(seen, model, pod) == digest for pod in found)
        if missing or not (served or node == first):
            yield node, missing


def _first_node(seen: ModelSeen, model: Model, key: str) -> str:
    """The node to which the first pull brought the bytes, empty if nobody knows any more."""
    job = find_job(seen, model, key)
    pod = pod_of(seen, job) if job is not None else None
    done = pod is not None and job is not None and observe_job(seen, job, key).state == "succeeded"
    return node_of(pod) if done and pod is not None else ""


def _digest_of(seen: ModelSeen, model: Model, pod: Object) -> str:
    config = live_config(find_config_map(seen, model, label(pod, REVISION))) or {}
    return str(config.get("digest") or "")


def observe_nodes(seen: ModelSeen, model: Model, key: str) -> PullObserved | None:
    """The pull that a waiting runner needs, one that failed before one that runs; None if nobody waits for one."""
    nodes = _look(seen, model)
    if nodes is None or nodes.key != key:
        return None
    found = [_observe(seen, nodes, node) for node in nodes.waiting]
    for state in ("failed", "running"):
        if match := next((pull for pull in found if pull.state == state), None):
            return match
    return None


def _observe(seen: ModelSeen, nodes: Nodes, node: str) -> PullObserved:
    pull = _seen_of(seen, nodes.jobs.get(node), nodes.key)
    if nodes.making is not None and pull.state == "succeeded":
        pull = _seen_of(seen, nodes.conversions.get(node), nodes.making.key)
    return replace(pull, node=node, message=f"node {node}: {pull.message}" if pull.message else "")


def _seen_of(seen: ModelSeen, job: Object | None, key: str) -> PullObserved:
    return PullObserved("running", key) if job is None else observe_job(seen, job, key)


def node_pulls(
    seen: ModelSeen, model: Model, serve: Mapping[str, Any] | None, *, off: bool
) -> tuple[tuple[Manifest, ...], tuple[tuple[str, str], ...]]:
    """The pinned Jobs to apply and those to keep. `serve`: the configuration that is (or would be) served."""
    nodes = _look(seen, model)
    if nodes is None or seen.claim is None:
        return (), ()
    # the pinned digest alone can be pulled: an older one that serves in its place has no source any more
    wanted = {} if off or (serve or {}).get("digest") != nodes.digest else nodes.waiting
    request = pinned_request(model.spec, nodes.held, origin_of(seen))
    made = [pull_job(seen, model, nodes.key, request, node) for node in wanted if node not in nodes.jobs]
    kept = [job for node, job in nodes.jobs.items() if _stays(seen, model, nodes, node, wanted, off)]
    if nodes.making is not None:
        made += _conversions(seen, model, nodes, nodes.making, wanted)
        kept += [job for node, job in nodes.conversions.items() if _goes_on(seen, model, nodes, node, wanted, off)]
    return tuple(made), tuple(("Job", name(job)) for job in kept)


def _conversions(
    seen: ModelSeen, model: Model, nodes: Nodes, making: Making, wanted: Iterable[str]
) -> list[dict[str, Any]]:
    """Those to be made now: on nodes that have what is to be converted."""
    brought = (node for node in wanted if _seen_of(seen, nodes.jobs.get(node), nodes.key).state == "succeeded")
    missing = (node for node in brought if node not in nodes.conversions)
    return [convert_job(seen, model, making.key, making.request, making.memory, node=node) for node in missing]


def _goes_on(seen: ModelSeen, model: Model, nodes: Nodes, node: str, wanted: Mapping[str, bool], off: bool) -> bool:
    """A conversion stays as long as the pull that it follows: after another pull it is done again."""
    pull, job = nodes.jobs.get(node), nodes.conversions[node]
    follows = pull is not None and _seen_of(seen, pull, nodes.key).state == "succeeded"
    if node not in wanted:
        return is_finished(job) or (node in nodes.placed and not off)
    return terminating(job) or (follows and not must_go(seen, model, job, off, _repeat(wanted[node])))


def _repeat(missing: bool) -> float:
    return REPEAT_SECONDS if missing else math.inf


def _stays(seen: ModelSeen, model: Model, nodes: Nodes, node: str, wanted: Mapping[str, bool], off: bool) -> bool:
    """A Job of a waiting node stays until it has to be made anew, one that runs as long as its node has a runner."""
    job = nodes.jobs[node]
    if node in wanted:
        in_vain = wanted[node] and _observe(seen, nodes, node).state != "failed"
        return terminating(job) or not must_go(seen, model, job, off, _repeat(in_vain))
    return is_finished(job) or (node in nodes.placed and not off)
