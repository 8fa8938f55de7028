"""What the cluster plans answer. The executor applies, prunes and writes the status; it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.plan_types import Note

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """`apply`: complete manifests in this order (server-side apply, only where live differs); no controller reference
    is missing in them. `keep`: (kind, name) of live children that stay although they are not applied. Every other
    live child of the object is deleted. `status`: the whole status, None to leave it. `nudge`: (pod name, mark):
    annotate the pod so that its kubelet refreshes the mounted configuration now. `rolls`: the plan changes a
    pod template.
    """

    apply: tuple[Manifest, ...]
    keep: tuple[tuple[str, str], ...] = ()
    status: Mapping[str, Any] | None = None
    notes: tuple[Note, ...] = ()
    nudge: tuple[tuple[str, str], ...] = ()
    rolls: bool = False
    requeue_seconds: float | None = None
