"""When a Deployment may take a new pod template: at once for what a user asked for, in turn after an operator upgrade.

Called by the plans of Models and Endpoints with the Deployment that they want and the live one. The API server adds
defaults to a template, so what was planned is compared by hashes that the Deployment carries as annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.cluster.meta import TEMPLATE_HASH, template_hash
from paddock_operator.core.cluster.observed import Object
from paddock_operator.core.cluster.types import Manifest
from paddock_operator.core.identity import short_hash

ASKED_HASH = "paddock.dev/asked-hash"
"""Annotation of a Deployment: hash of what its user asked for, besides the template that this operator makes of it."""
WAIT_SECONDS = 5.0
"""Plan again after this time while the turn is awaited."""


@dataclass(frozen=True, slots=True)
class Roll:
    """`apply` is the Deployment to apply, None while it has to wait (then keep the live one and plan again after
    `WAIT_SECONDS`). `rolls`: a live pod template changes.
    """

    apply: Manifest | None
    rolls: bool


def roll(planned: Manifest, live: Object | None, asked: Mapping[str, Any], may_roll: bool) -> Roll:
    """Decide whether `planned` (a complete Deployment) replaces `live` now.

    `asked` is every value of the spec or pin that enters the pod template (JSON values). If the template is new but
    neither `asked` nor the number of replicas changed, the change is this operator's own and needs `may_roll`.
    """
    marks = {
        TEMPLATE_HASH: template_hash(planned["spec"]["template"]),
        ASKED_HASH: short_hash({"asked": asked, "replicas": planned["spec"].get("replicas")}),
    }
    before = (live or {}).get("metadata", {}).get("annotations") or {}
    changed = live is not None and before.get(TEMPLATE_HASH) != marks[TEMPLATE_HASH]
    if changed and not may_roll and before.get(ASKED_HASH) == marks[ASKED_HASH]:
        return Roll(None, False)
    annotations = {**(planned["metadata"].get("annotations") or {}), **marks}
    return Roll({**planned, "metadata": {**planned["metadata"], "annotations": annotations}}, changed)
