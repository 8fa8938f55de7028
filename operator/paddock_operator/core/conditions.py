"""Conditions of statuses: their types, the closed list of reasons, and how they are merged with the last ones.

Called by the plans. A reason that is not listed here raises: automation may rely on the list (docs name it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from paddock_operator.core.plan_types import Note

Truth = Literal["True", "False", "Unknown"]
Verdict = tuple[Truth, str, str]
"""Status, reason and message of a condition."""
Condition = dict[str, Any]

PULL_REASONS = frozenset(
    {
        "NotFound",
        "SourceUnsupported",
        "Offline",
        "NotGGUF",
        "TruncatedGGUF",
        "InvalidGGUF",
        "InvalidModel",
        "DigestMismatch",
        "SizeMismatch",
        "NoSpace",
        "CacheUnusable",
        "ForbiddenAddress",
        "InsecureSource",
        "NetworkError",
        "Interrupted",
        "Unauthorized",
        "PullerCrashed",
        "PullFailed",
    }
)
POD_REASONS = frozenset(
    {
        "Unschedulable",
        "FailedCreate",
        "ImagePullBackOff",
        "FailedMount",
        "CreateContainerConfigError",
        "SecretNotFound",
        "OOMKilled",
        "Evicted",
        "CacheUnbound",
    }
)
"""What can keep a pod of a cluster from running; none of it needs an edit of the object to go away."""
BASE_REASONS = frozenset({"ModelNotFound", "ModelNotReady", "InvalidSpec"})
"""What `spec.source.model` may name: nothing, a Model without a digest, or a Model that is made from this one."""
MODEL_PROGRESS = frozenset({"Resolving", "Pulling", "Verifying", "Converting", "Starting", "Loading", "Configuring"})
MODEL_OFF = frozenset({"Suspended", "Unsupported"})
GATEWAY_SPEC = frozenset({"Unsupported", "InvalidSpec"})
"""Faults of an Endpoint that only an edit of its spec cures."""
GATEWAY_FAULTS = GATEWAY_SPEC | {"Forbidden", "TooLarge", "CrashLooping", "Refused"} | POD_REASONS
REASONS: Mapping[str, frozenset[str]] = {
    "Ready": frozenset(
        {
            "Serving",
            "Idle",
            "Suspended",
            "Crashed",
            "CrashLooping",
            "RolledBack",
            "NotRunning",
            "GatewayReady",
            "ScaledToZero",
            "NotListening",
            "Degraded",
        }
        | MODEL_PROGRESS
        | PULL_REASONS
        | POD_REASONS
        | BASE_REASONS
        | GATEWAY_FAULTS
    ),
    "Available": frozenset(
        {"RunnerReady", "NoRunner", "RunnerNotReady", "NotRunning", "Crashed", "CrashLooping"} | POD_REASONS
    ),
    "Resolved": frozenset(
        {"DigestInSpec", "Pinned", "Resolving", "Converting"} | MODEL_OFF | PULL_REASONS | POD_REASONS | BASE_REASONS
    ),
    "Cached": frozenset(
        {"Verified", "Pulling", "Verifying", "Converting", "Resolving"}
        | MODEL_OFF
        | PULL_REASONS
        | POD_REASONS
        | BASE_REASONS
    ),
    "Fits": frozenset({"Fits", "ExceedsMemory", "Unknown"}),
    "Drifted": frozenset({"SourceMoved", "UpToDate", "CheckFailed"}),
    "Reconciling": frozenset(
        {"Crashed", "NotListening"} | MODEL_PROGRESS | PULL_REASONS | POD_REASONS | BASE_REASONS | GATEWAY_FAULTS
    ),
    "Stalled": frozenset({"CrashLooping", "RolledBack"} | PULL_REASONS | GATEWAY_SPEC),
    "ModelsReady": frozenset({"AllReady", "ModelNotFound", "ModelNotReady", "NoModels"}),
    "NameConflict": frozenset({"NameConflict"}),
}
MAX_MESSAGE = 1024


def condition(kind: str, status: Truth, reason: str, message: str, generation: int) -> Condition:
    """One condition without its transition time. Raises ValueError for a reason that is not of the closed list."""
    if reason not in REASONS[kind]:
        raise ValueError(f"{reason} is not a reason of condition {kind}")
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:MAX_MESSAGE],
        "observedGeneration": generation,
    }


def pull_reason(reason: str) -> str:
    """The puller's (or its pod's) reason if it is of the closed list, else PullFailed."""
    return reason if reason in PULL_REASONS | POD_REASONS else "PullFailed"


def find(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of a type in a status, or an empty mapping."""
    return next((entry for entry in status.get("conditions") or () if entry.get("type") == kind), {})


def merge(previous: Mapping[str, Any], planned: Iterable[Condition], now: str) -> list[Condition]:
    """Give planned conditions their transition time: the last one's if its status is equal, else `now`."""
    merged = []
    for entry in planned:
        before = find(previous, entry["type"])
        same = before.get("status") == entry["status"] and before.get("lastTransitionTime")
        merged.append({**entry, "lastTransitionTime": before["lastTransitionTime"] if same else now})
    return merged


def changes(previous: Mapping[str, Any], conditions: Iterable[Condition]) -> tuple[Note, ...]:
    """A note for each condition whose status or reason is new."""
    return tuple(
        Note(entry["reason"], f"{entry['type']} is {entry['status']}: {entry['message']}")
        for entry in conditions
        if _verdict(find(previous, entry["type"])) != _verdict(entry)
    )


def _verdict(entry: Mapping[str, Any]) -> tuple[Any, Any]:
    return entry.get("status"), entry.get("reason")
