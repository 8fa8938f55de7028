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
ASKED_TEMPLATE = "paddock.dev/asked-template"
"""Annotation of a Deployment: `<hash>-<template>`, what its user asks for, and the template hash of the last roll that
came from a change of it. Any other template hash is this operator's own work.
"""
WAIT_SECONDS = 5.0
"""Plan again after this time while the turn is awaited."""


@dataclass(frozen=True, slots=True)
class Roll:
    """`apply` is the Deployment to apply, None while it has to wait (then keep the live one and plan again after
    `WAIT_SECONDS`). `rolls`: a live pod template changes. `unfinished`: a template that the user asked for is still to
    come, or to be rolled out; scaling and the operator's own changes never count.
    """

    apply: Manifest | None
    rolls: bool
    unfinished: bool


def roll(planned: Manifest, live: Object | None, asked: Mapping[str, Any], may_roll: bool) -> Roll:
    """Decide whether `planned` (a complete Deployment) replaces `live` now.

    `asked` is every value of the spec or pin that enters the pod template (JSON values). If the template is new but
    neither `asked` nor the number of replicas changed, the change is this operator's own and needs `may_roll`.
    """
    marks = {
        TEMPLATE_HASH: template_hash(planned["spec"]["template"]),
        ASKED_HASH: short_hash({"asked": asked, "replicas": planned["spec"].get("replicas")}),
    }
    before = _marks(live)
    changed = live is not None and before.get(TEMPLATE_HASH) != marks[TEMPLATE_HASH]
    if changed and not may_roll and before.get(ASKED_HASH) == marks[ASKED_HASH]:
        return Roll(None, False, _is_unfinished(live))
    marks[ASKED_TEMPLATE] = _asked_template(live, marks, short_hash(asked))
    annotations = {**(planned["metadata"].get("annotations") or {}), **marks}
    apply = {**planned, "metadata": {**planned["metadata"], "annotations": annotations}}
    by_user = _target(marks) == marks[TEMPLATE_HASH]
    return Roll(apply, changed, by_user if changed else _is_unfinished(live))


def rolled_out(live: Object) -> bool:
    """Whether all pods that a live Deployment counts are of its current template; few or many, ready or not."""
    status, generation = live.get("status") or {}, live["metadata"].get("generation") or 0
    if generation == 1:
        # It never had another template, and its pods may be ready before its status says anything.
        return True
    observed = (status.get("observedGeneration") or 0) >= generation
    return observed and (status.get("replicas") or 0) == (status.get("updatedReplicas") or 0)


def _is_unfinished(live: Object | None) -> bool:
    """Whether a roll that the user asked for is under way."""
    marks = _marks(live)
    asked = bool(_target(marks)) and _target(marks) == marks.get(TEMPLATE_HASH)
    return live is not None and asked and not rolled_out(live)


def _asked_template(live: Object | None, marks: Mapping[str, str], asked: str) -> str:
    """The annotation `ASKED_TEMPLATE`. A roll that takes the place of an unfinished one has to finish for it."""
    before = _marks(live)
    known = before.get(ASKED_TEMPLATE, "").partition("-")[0]
    edited = known != asked if known else before.get(ASKED_HASH) != marks[ASKED_HASH]
    changed = before.get(TEMPLATE_HASH) != marks[TEMPLATE_HASH]
    by_user = changed and (live is None or edited or _is_unfinished(live))
    return f"{asked}-{marks[TEMPLATE_HASH] if by_user else _target(before)}"


def _target(marks: Mapping[str, str]) -> str:
    return marks.get(ASKED_TEMPLATE, "").partition("-")[2]


def _marks(live: Object | None) -> Mapping[str, str]:
    found: Mapping[str, str] = (live or {}).get("metadata", {}).get("annotations") or {}
    return found
