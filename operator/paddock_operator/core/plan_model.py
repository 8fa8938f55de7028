"""What should happen to a Model: the one decision that every executor acts on.

Called by executors for each ring of a Model's key. Reads an `Observed`, answers a `ModelPlan`; the parts are decided by
`plan_pin` (which digest, which pull), `plan_drift` (whether the source moved), `plan_serve` (which runner) and
`model_conditions` (what the status says).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core import plan_drift, plan_pin, plan_serve
from paddock_operator.core.conditions import changes, merge
from paddock_operator.core.fields import ignored_fields
from paddock_operator.core.identity import selector, short_hash
from paddock_operator.core.memory import estimate
from paddock_operator.core.model_conditions import counts, model_conditions, percent, shown_count
from paddock_operator.core.observed import ModelObserved
from paddock_operator.core.plan_pin import Pin
from paddock_operator.core.plan_serve import Service
from paddock_operator.core.plan_types import ModelPlan
from paddock_operator.core.wire import to_wire

MEASURED_STEP = 16 * 1024 * 1024
"""Measured memory is rounded to this, so that a status is not written for every page."""


def plan_model(o: ModelObserved) -> ModelPlan:
    """Decide pull, serve configuration and status. Never raises for anything that a checked manifest can hold."""
    pin = plan_pin.decide(o)
    drift = plan_drift.decide(o, pin)
    service = plan_serve.decide(o, pin)
    memory = _memory(o, pin, service)
    found = model_conditions(o, pin, service, memory.get("estimated", {}), drift)
    conditions = merge(o.status, found, o.now)
    existing, ready = counts(o)
    needs = _needs(pin, service, memory.get("estimated", {}))
    status = {
        "observedGeneration": o.model.generation,
        "conditions": conditions,
        "resolved": pin.resolved,
        "details": pin.details,
        "pull": _pull(o, pin),
        "conversion": pin.making.section if pin.converting and pin.making else {},
        "memory": memory,
        "replicas": existing,
        "readyReplicas": ready,
        "selector": selector(o.model.ref, "runner" if o.platform == "cluster" else ""),
        "history": list(service.history),
        "quarantine": list(service.quarantine),
        "effective": _effective(o, service),
    }
    return ModelPlan(
        pull=pin.request if pin.wanted and not o.is_off else None,
        pull_key=pin.key,
        serve=service.config,
        status={name: value for name, value in status.items() if value not in ({}, [], None)},
        notes=changes(o.status, conditions),
        requeue_seconds=None if o.is_off else _soonest(pin.due_seconds, drift.due_seconds),
        replicas=service.wanted,
        standby=service.standby,
        memory=needs.get("memory", 0),
        size=needs.get("size", 0),
        check=drift.request,
        check_key=drift.key,
        **_conversion(o, pin),
    )


def _soonest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _conversion(o: ModelObserved, pin: Pin) -> dict[str, Any]:
    """The conversion of a plan: one that was done is known by its key, and wanted no more."""
    if pin.making is None:
        return {}
    wanted = pin.making.request if pin.converting and not o.is_off else None
    return {"convert": wanted, "convert_key": pin.making.key, "convert_memory": pin.making.memory}


def _needs(pin: Pin, service: Service, estimated: Mapping[str, Any]) -> dict[str, int]:
    """Memory and size of what is served: those of the pin, or those that the history kept of an older digest."""
    config = service.standby or {}
    of_pin = {"memory": int(estimated.get("total", 0)), "size": int(pin.resolved.get("size", 0))}
    if not config or config["digest"] == estimated.get("digest"):
        return of_pin
    kept = [entry for entry in service.history if entry["digest"] == config["digest"]]
    same = [entry for entry in kept if entry["settingsHash"] == short_hash(config["engine"])]
    entry = next(iter([*same, *kept]), {})
    return {name: int(entry.get(name) or value) for name, value in of_pin.items()}


def _pull(o: ModelObserved, pin: Pin) -> dict[str, int]:
    """Progress in whole percent, so that a status is written at most a hundred times; empty when nothing runs.

    On a cluster a pull that has nothing to show yet is not worth a write either.
    """
    seen = pin.pull
    quiet = o.platform == "cluster" and seen.state == "running" and not seen.total
    if seen.state not in ("running", "failed") or quiet:
        return {}
    done = percent(seen.completed, seen.total)
    return {
        "completed": seen.total * done // 100,
        "total": seen.total,
        "percent": done,
        "attempts": shown_count(o, seen.attempts),
    }


def _memory(o: ModelObserved, pin: Pin, service: Service) -> dict[str, Any]:
    """The estimate is frozen for a digest with its settings; the measured numbers are for display."""
    known = (o.status.get("memory") or {}).get("estimated") or {}
    memory: dict[str, Any] = {"estimated": known} if known else {}
    same = known.get("digest") == pin.target and known.get("settingsHash") == service.settings
    if pin.target and pin.current and not same:
        sizes = estimate(service.engine, pin.details, *_file_sizes(pin.resolved))
        memory["estimated"] = {"digest": pin.target, "settingsHash": service.settings, **sizes}
    measured = (o.status.get("memory") or {}).get("measured")
    if o.platform == "cluster" and measured and same:
        # pods tell it in their logs, which are not read again while nothing is pending
        memory["measured"] = measured
    if o.runner.memory:
        memory["measured"] = {name: _rounded(o.runner.memory.get(name, 0)) for name in ("weights", "kv", "resident")}
    return memory


def _file_sizes(resolved: Mapping[str, Any]) -> tuple[int, int]:
    """(bytes of the model's files, of adapters and projectors)."""
    files = [(str(file.get("role")), int(file.get("size", 0))) for file in resolved.get("files", ())]
    model = sum(size for role, size in files if role == "model")
    others = sum(size for role, size in files if role in ("adapter", "projector"))
    return model or int(resolved.get("size", 0)), others


def _rounded(value: int) -> int:
    return -(-value // MEASURED_STEP) * MEASURED_STEP


def _effective(o: ModelObserved, service: Service) -> dict[str, Any]:
    spec = o.model.spec
    shown = ("contextLength", "slots", "cells", "batch", "typeK", "typeV", "flashAttention")
    effective = {name: service.engine[name] for name in shown} | {
        "keepAliveSeconds": plan_serve.keep_alive_seconds(spec),
        "drainSeconds": plan_serve.drain_seconds(spec),
        "queueDepth": plan_serve.QUEUE_DEPTH,
        "replicas": service.wanted,
        "updatePolicy": spec.update_policy.type if spec.update_policy else "Pinned",
    }
    ignored = ignored_fields("Model", to_wire(spec), o.platform)
    return effective | ({"ignored": ignored} if ignored else {})
