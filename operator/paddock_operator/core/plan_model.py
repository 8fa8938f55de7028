"""What should happen to a Model: the one decision that every executor acts on.

Called by executors for each ring of a Model's key. Reads an `Observed`, answers a `ModelPlan`; the parts are decided by
`plan_pin` (which digest, which pull), `plan_serve` (which runner) and `model_conditions` (what the status says).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core import plan_pin, plan_serve
from paddock_operator.core.conditions import changes, merge
from paddock_operator.core.identity import selector
from paddock_operator.core.local_fields import ignored_fields
from paddock_operator.core.memory import estimate
from paddock_operator.core.model_conditions import model_conditions, percent
from paddock_operator.core.observed import ModelObserved
from paddock_operator.core.plan_pin import Pin
from paddock_operator.core.plan_serve import RUNS, Service
from paddock_operator.core.plan_types import ModelPlan
from paddock_operator.core.wire import to_wire

MEASURED_STEP = 16 * 1024 * 1024
"""Measured memory is rounded to this, so that a status is not written for every page."""


def plan_model(o: ModelObserved) -> ModelPlan:
    """Decide pull, serve configuration and status. Never raises for anything that a checked manifest can hold."""
    pin = plan_pin.decide(o)
    service = plan_serve.decide(o, pin)
    memory = _memory(o, pin, service)
    conditions = merge(o.status, model_conditions(o, pin, service, memory.get("estimated", {})), o.now)
    status = {
        "observedGeneration": o.model.generation,
        "conditions": conditions,
        "resolved": pin.resolved,
        "details": pin.details,
        "pull": _pull(pin),
        "memory": memory,
        "replicas": 0 if o.runner.state in ("none", "stopped") else 1,
        "readyReplicas": 1 if o.runner.state in RUNS else 0,
        "selector": selector(o.model.ref),
        "history": list(service.history),
        "quarantine": list(service.quarantine),
        "effective": _effective(o, service),
    }
    return ModelPlan(
        pull=None if o.model.spec.suspend else pin.request,
        pull_key=pin.key,
        serve=service.config,
        status={name: value for name, value in status.items() if value not in ({}, [], None)},
        notes=changes(o.status, conditions),
        requeue_seconds=None if o.model.spec.suspend else pin.due_seconds,
    )


def _pull(pin: Pin) -> dict[str, int]:
    """Progress in whole percent, so that a status is written at most a hundred times; empty when nothing runs."""
    seen = pin.pull
    if seen.state not in ("running", "failed"):
        return {}
    done = percent(seen.completed, seen.total)
    return {
        "completed": seen.total * done // 100,
        "total": seen.total,
        "percent": done,
        "attempts": seen.attempts,
    }


def _memory(o: ModelObserved, pin: Pin, service: Service) -> dict[str, Any]:
    """The estimate is frozen for a digest with its settings; the measured numbers are for display."""
    known = (o.status.get("memory") or {}).get("estimated") or {}
    memory: dict[str, Any] = {"estimated": known} if known else {}
    same = known.get("digest") == pin.target and known.get("settingsHash") == service.settings
    if pin.target and pin.current and not same:
        sizes = estimate(service.engine, pin.details, _weights(pin.resolved))
        memory["estimated"] = {"digest": pin.target, "settingsHash": service.settings, **sizes}
    if o.runner.memory:
        memory["measured"] = {name: _rounded(o.runner.memory.get(name, 0)) for name in ("weights", "kv", "resident")}
    return memory


def _weights(resolved: Mapping[str, Any]) -> int:
    models = [int(file.get("size", 0)) for file in resolved.get("files", ()) if file.get("role") == "model"]
    return sum(models) or int(resolved.get("size", 0))


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
    ignored = ignored_fields("Model", to_wire(spec)) if o.platform == "local" else []
    return effective | ({"ignored": ignored} if ignored else {})
