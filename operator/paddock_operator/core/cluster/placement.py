"""Where pods go: the placement and the resources of a Model's spec as fields of a pod. Called by the pod builders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from paddock_operator.core.model_spec import Placement, Resources
from paddock_operator.core.quantity import quantity
from paddock_operator.core.wire import to_wire

HOST = "kubernetes.io/hostname"
MEBIBYTE = 1 << 20
DEFAULT_CPU = "500m"
"""Request of a runner that asks for nothing: enough to be served beside others, and any idle processor is used."""
MAX_BYTES = 1 << 60


def placement_fields(placement: Placement | None) -> dict[str, Any]:
    """Fields of a pod spec that choose its node; runtime class and spread constraints are a runner's alone."""
    given: dict[str, Any] = to_wire(placement) if placement else {}
    names = ("nodeSelector", "tolerations", "affinity", "priorityClassName", "schedulerName")
    return {name: given[name] for name in names if given.get(name)}


def on_node(placement: Placement | None, node: str) -> dict[str, Any]:
    """Fields that pin a pod to a node, past what keeps others off it."""
    kept = {
        name: value for name, value in placement_fields(placement).items() if name not in ("nodeSelector", "affinity")
    }
    return kept | {"affinity": to_node(node)}


def to_node(node: str) -> dict[str, Any]:
    """The affinity to exactly one node; by name, because a label can be changed."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def beside(selector: Mapping[str, Any]) -> dict[str, Any]:
    """The affinity to nodes where pods of a label selector run, if one of those takes the pod."""
    term = {"labelSelector": dict(selector), "topologyKey": HOST}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def runner_fields(placement: Placement | None, selector: Mapping[str, str]) -> dict[str, Any]:
    """`placement_fields` with what only runners have: spreading over nodes and a runtime class."""
    fields, chosen = placement_fields(placement), placement or Placement()
    if chosen.runtime_class_name:
        fields["runtimeClassName"] = chosen.runtime_class_name
    # always there, because a change of the number of runners must not restart them
    fields["topologySpreadConstraints"] = [dict(entry) for entry in chosen.topology_spread_constraints] or [
        {
            "maxSkew": 1,
            "topologyKey": HOST,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(selector)},
        }
    ]
    return fields


def runner_resources(resources: Resources | None, estimated: int) -> dict[str, Any]:
    """`resources` of a runner's container. `estimated`: bytes that it needs if spec does not say, 0 if unknown.

    Memory is granted in full (request = limit), so that a runner never takes what belongs to another. Without
    `spec.resources.cpu` there is no processor limit: the number of threads follows the quota, here the whole node.
    """
    wanted = resources or Resources()
    memory, cpu = _memory(wanted, estimated), _cpu(wanted)
    requests = {"cpu": cpu or DEFAULT_CPU, **({"memory": memory} if memory else {})}
    limits = {**({"cpu": cpu} if cpu else {}), **({"memory": memory} if memory else {})}
    return {"requests": requests} | ({"limits": limits} if limits else {})


def _memory(wanted: Resources, estimated: int) -> str:
    given = 0 if wanted.memory in (None, "Auto") else math.ceil(quantity(wanted.memory or 0))
    size = min(given or -(-estimated // MEBIBYTE) * MEBIBYTE, MAX_BYTES)
    return memory_text(size) if size else ""


def _cpu(wanted: Resources) -> str:
    thousandths = math.ceil(quantity(wanted.cpu or 0) * 1000)
    if not thousandths:
        return ""
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def memory_text(size: int) -> str:
    """Bytes as the API server writes them: the largest binary unit that divides."""
    for power, unit in ((6, "Ei"), (5, "Pi"), (4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size % 1024**power == 0 and size:
            return f"{size // 1024**power}{unit}"
    return str(size)
