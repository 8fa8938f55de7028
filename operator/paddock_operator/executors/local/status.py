"""Small truths about statuses: one condition, and what a status says when nobody keeps it true.

Called by `controller` at the end of a run, by `objects` at the start of the next, and by the CLI in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.conditions import find

NOT_RUNNING = "NotRunning"
_MESSAGE = "no paddock up runs for this home; start it with: paddock up -f PATH"


def not_running(status: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status of an object that no process serves: Ready is Unknown, nothing is available; pins and facts stay."""
    kept = [dict(entry) for entry in status.get("conditions") or () if entry.get("type") not in _SUPERSEDED]
    verdicts = [_verdict(status, "Ready", "Unknown", now)]
    if find(status, "Available"):
        verdicts.append(_verdict(status, "Available", "False", now))
    changed: dict[str, Any] = {"conditions": verdicts + kept}
    if "readyReplicas" in status:
        changed |= {"replicas": 0, "readyReplicas": 0}
    return {**status, **changed}


_SUPERSEDED = ("Ready", "Available", "Reconciling")


def _verdict(status: Mapping[str, Any], kind: str, value: str, now: str) -> dict[str, Any]:
    before = find(status, kind)
    since = before.get("lastTransitionTime", now) if before.get("status") == value else now
    verdict = {"type": kind, "status": value, "reason": NOT_RUNNING, "message": _MESSAGE, "lastTransitionTime": since}
    if "observedGeneration" in before:
        verdict["observedGeneration"] = before["observedGeneration"]
    return verdict
