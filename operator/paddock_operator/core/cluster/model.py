"""What should exist on the cluster for one Model, and what its status says: the pure plan.

Called by the cluster executor for each ring of a Model's key. Decisions are those of `core.plan_model`, which one
machine shares; this package reads Jobs and pods for it and turns its answer into manifests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from paddock_operator.core import plan_drift, plan_pin, plan_serve
from paddock_operator.core.bases import find_base
from paddock_operator.core.cluster.labels import CACHE_PATH, REVISION, pull_job_name, revision_of
from paddock_operator.core.cluster.model_looks import is_waited_for, nudges, requeue
from paddock_operator.core.cluster.model_manifests import (
    config_map,
    disruption_budget,
    find_config_map,
    refreshed,
    runner_service,
)
from paddock_operator.core.cluster.model_runner import observe_runner, repeat_after
from paddock_operator.core.cluster.node_pulls import node_pulls, observe_nodes
from paddock_operator.core.cluster.observed import ModelSeen
from paddock_operator.core.cluster.origins import origin_of
from paddock_operator.core.cluster.pods import FINISHED, condition_of, label, name, node_of, phase, runners, terminating
from paddock_operator.core.cluster.pull_job import convert_job, find_job, must_go, observe_pull, pod_of, pull_job
from paddock_operator.core.cluster.rolls import WAIT_SECONDS, Roll, roll
from paddock_operator.core.cluster.runner_pod import asked, runner_deployment
from paddock_operator.core.cluster.trouble import not_created
from paddock_operator.core.cluster.types import ClusterPlan, Manifest
from paddock_operator.core.cluster.verdict import printable
from paddock_operator.core.conditions import MAX_MESSAGE, MODEL_PROGRESS, find
from paddock_operator.core.fields import unsupported
from paddock_operator.core.identity import child_name
from paddock_operator.core.observed import ModelObserved, PullObserved, RunnerObserved
from paddock_operator.core.plan_model import plan_model
from paddock_operator.core.plan_types import ModelPlan
from paddock_operator.core.resources import Model, parse

_HISTORY_KEYS, _QUARANTINE_KEYS = {"digest", "settingsHash"}, {"digest", "generation"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a `ClusterPlan`: what to apply and what to keep as it is."""

    apply: tuple[Manifest, ...] = ()
    keep: tuple[tuple[str, str], ...] = ()
    rolls: bool = False
    wait: float | None = field(default=None)


def plan_cluster_model(seen: ModelSeen) -> ClusterPlan:
    """Children to apply and keep, the status, and when to look again. Raises ValueError if it is not a Model."""
    model = parse(seen.model)
    if not isinstance(model, Model):
        raise ValueError(f"{seen.model.get('kind')} is not a Model")
    observed, plan = _decide(seen, model)
    configs = _configs(seen, model, plan)
    bytes_ = [_pull(seen, observed, plan), _convert(seen, observed, plan), _check(seen, model, plan)]
    parts = [*bytes_, configs, _deployment(seen, model, plan)]
    nodes = Part(*node_pulls(seen, model, plan.standby, off=observed.is_off))
    budget = [disruption_budget(seen, model)] if plan.replicas > 1 else []
    nudge = nudges(seen, model, configs.apply)
    return ClusterPlan(
        # the Deployment comes last: its pods mount what stands before it
        apply=(
            *(made for part in (*bytes_, nodes, configs) for made in part.apply),
            *(runner_service(seen, model), *budget, *parts[-1].apply),
        ),
        keep=tuple(item for part in (*parts, nodes) for item in part.keep),
        status=_worth_writing(observed.status, plan.status),
        notes=plan.notes,
        nudge=nudge,
        rolls=parts[-1].rolls,
        requeue_seconds=requeue(seen, model, plan, is_waited_for(nudge), parts[-1].wait),
    )


def _decide(seen: ModelSeen, model: Model) -> tuple[ModelObserved, ModelPlan]:
    """What was observed and what follows: which pull and which pods count is itself a part of the plan."""
    blank = ModelObserved(
        model=model,
        status=_sound(seen.model.get("status") or {}),
        pull=PullObserved(),
        runner=RunnerObserved(),
        names=seen.names,
        credentials=seen.credentials,
        models_dir=CACHE_PATH,
        now=seen.now,
        platform="cluster",
        unsupported=_unsupported(seen),
        refused=printable(seen.refused, MAX_MESSAGE),
        base=find_base(seen.model, seen.others),
        origin=origin_of(seen),
        check_seconds=0 if seen.settings.sources.offline else seen.settings.drift_seconds,
    )
    with_pull = _with_check(seen, _with_pull(seen, blank))
    runner = observe_runner(seen, model, plan_serve.decide(with_pull, plan_pin.decide(with_pull)).config)
    if seen.settings.cache.mode == "Node":
        # a node that lacks bytes is no reason to look for them everywhere else
        runner = replace(runner, bytes_missing=False)
    observed = replace(with_pull, runner=runner)
    plan = plan_model(observed)
    if not _is_rolling(seen, model, plan):
        return observed, plan
    observed = replace(observed, runner=_rolling(seen, runner))
    return observed, plan_model(observed)


def _with_pull(seen: ModelSeen, blank: ModelObserved) -> ModelObserved:
    """With what is seen of the pull of the wanted key, and of the conversion that follows from what it brought.

    In cache mode Node a node that waits for bytes counts, once the pull that finds the digest is done.
    """
    model, key = blank.model, plan_pin.decide(blank).key
    first = replace(blank, pull=observe_pull(seen, model, key))
    making = plan_pin.decide(first).making
    if making is not None:
        first = replace(first, convert=observe_pull(seen, model, making.key))
    waiting = observe_nodes(seen, model, key)
    if waiting is None:
        return first
    return replace(first, convert=replace(waiting, source_hash=making.key)) if making else replace(first, pull=waiting)


def _with_check(seen: ModelSeen, observed: ModelObserved) -> ModelObserved:
    key = plan_drift.decide(observed, plan_pin.decide(observed)).key
    return replace(observed, check=observe_pull(seen, observed.model, key)) if key else observed


def _unsupported(seen: ModelSeen) -> str:
    """What the spec asks for and a cluster (or this one's kind of cache) cannot do."""
    found = unsupported("Model", seen.model["spec"])
    origin = origin_of(seen)
    if origin and origin.converted:
        words = (
            "spec.source.model: with cache.mode Node no node can bring what another Model converted; repeat its source"
        )
        found = f"{found}; {words}" if found else words
    return found


def _is_rolling(seen: ModelSeen, model: Model, plan: ModelPlan) -> bool:
    """Whether an edit of the spec is to change the pods and has not changed all; a restart or a scaling is no edit."""
    status = seen.model.get("status") or {}
    edited = status.get("observedGeneration") != model.generation
    under_way = edited or find(status, "Reconciling").get("status") == "True"
    return under_way and plan.serve is not None and _roll(seen, model, plan).unfinished


def _rolling(seen: ModelSeen, runner: RunnerObserved) -> RunnerObserved:
    """The runners while a roll is under way: pods that may not be made keep it from its end, too."""
    refused = next((condition_of(item, "ReplicaFailure") for item in seen.children.deployments), {})
    if runner.reason or refused.get("status") != "True":
        return replace(runner, rolling=True)
    trouble = not_created(str(refused.get("message") or ""))
    return replace(runner, rolling=True, reason=trouble.reason, message=trouble.message)


def _sound(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The status without entries that lack what every entry of ours has: somebody else wrote them."""
    history = [entry for entry in status.get("history") or () if set(entry) >= _HISTORY_KEYS]
    quarantine = [entry for entry in status.get("quarantine") or () if set(entry) >= _QUARANTINE_KEYS]
    return {**status, "history": history, "quarantine": quarantine}


def _worth_writing(before: Mapping[str, Any], planned: Mapping[str, Any]) -> Mapping[str, Any]:
    """The planned status; while a runner is still to come, the mere number of pods is no reason to write another."""
    under_way = find(planned, "Ready").get("reason") in MODEL_PROGRESS and not planned.get("readyReplicas")
    if under_way and "replicas" in before:
        same = {**planned, "replicas": before["replicas"]}
        if all(same.get(key) == value for key, value in before.items() if value) and set(same) <= set(before):
            return same
    return planned


def _pull(seen: ModelSeen, observed: ModelObserved, plan: ModelPlan) -> Part:
    """The Job of the wanted key: made once, then kept as it is."""
    model = observed.model
    live = find_job(seen, model, plan.pull_key)
    if live is not None:
        again = must_go(seen, model, live, observed.is_off, repeat_after(observed.runner))
        return Part() if again and not terminating(live) else Part(keep=(("Job", name(live)),))
    if plan.pull is None or seen.claim is None:
        return Part()
    return Part((pull_job(seen, model, plan.pull_key, plan.pull),))


def _convert(seen: ModelSeen, observed: ModelObserved, plan: ModelPlan) -> Part:
    """The Job of the wanted conversion: made once, then kept. In cache mode Node it runs where the bytes are."""
    model = observed.model
    live = find_job(seen, model, plan.convert_key) if plan.convert_key else None
    if live is not None:
        again = must_go(seen, model, live, observed.is_off, repeat_after(observed.runner))
        return Part() if again and not terminating(live) else Part(keep=(("Job", name(live)),))
    if plan.convert is None or seen.claim is None:
        return Part()
    node = _node_of_pull(seen, model, plan.pull_key) if seen.settings.cache.mode == "Node" else ""
    called = pull_job_name(model.ref, plan.convert_key)
    made = convert_job(seen, model, plan.convert_key, plan.convert, plan.convert_memory, node=node, name=called)
    return Part((made,))


def _check(seen: ModelSeen, model: Model, plan: ModelPlan) -> Part:
    """The Job that asks a source: made once for its turn, and kept as the record that it was asked."""
    if plan.check is None or seen.claim is None:
        return Part()
    live = find_job(seen, model, plan.check_key)
    return Part(keep=(("Job", name(live)),)) if live else Part((pull_job(seen, model, plan.check_key, plan.check),))


def _node_of_pull(seen: ModelSeen, model: Model, key: str) -> str:
    job = find_job(seen, model, key)
    pod = pod_of(seen, job) if job is not None else None
    return node_of(pod) if pod is not None else ""


def _configs(seen: ModelSeen, model: Model, plan: ModelPlan) -> Part:
    """The ConfigMap that is served, and those that pods of other revisions still read."""
    current = revision_of(dict(plan.standby)) if plan.standby else ""
    made = [config_map(seen, model, plan.standby)] if plan.standby and _has_deployment(seen, plan) else []
    kept: list[tuple[str, str]] = []
    for revision in _older_revisions(seen, current):
        again = refreshed(seen, model, revision, plan.standby)
        live = find_config_map(seen, model, revision)
        if again is not None:
            made.append(again)
        elif live is not None:
            kept.append(("ConfigMap", name(live)))
    return Part(tuple(made), tuple(kept))


def _older_revisions(seen: ModelSeen, current: str) -> list[str]:
    pods = (pod for pod in runners(seen.children.pods) if phase(pod) not in FINISHED)
    return sorted({label(pod, REVISION) for pod in pods} - {"", current})


def _has_deployment(seen: ModelSeen, plan: ModelPlan) -> bool:
    return plan.standby is not None and (plan.replicas > 0 or bool(seen.children.deployments))


def _deployment(seen: ModelSeen, model: Model, plan: ModelPlan) -> Part:
    """The Deployment: applied, or kept while an operator upgrade waits for its turn, or none (nothing to serve)."""
    if plan.standby is None or not _has_deployment(seen, plan):
        return Part()
    decided = _roll(seen, model, plan)
    if decided.apply is None:
        return Part(keep=(("Deployment", child_name(model.ref)),), wait=WAIT_SECONDS)
    return Part((decided.apply,), rolls=decided.rolls)


def _roll(seen: ModelSeen, model: Model, plan: ModelPlan) -> Roll:
    """What the Deployment for the (standby) configuration of a plan does to the live one."""
    revision = revision_of(dict(plan.standby or {}))
    live = next(iter(seen.children.deployments), None)
    return roll(runner_deployment(seen, model, plan, revision), live, asked(model, revision), seen.may_roll)
