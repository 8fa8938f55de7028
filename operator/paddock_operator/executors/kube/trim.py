"""What is kept of an object in memory: enough for plans and for the comparison with a manifest, and no more.

Called by `store` for each object that arrives. It changes the freshly parsed object in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.cluster.labels import FIELD_MANAGER
from paddock_operator.executors.kube.kinds import Kind
from paddock_operator.executors.kube.packed import Packed

DROPPED_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
DECLARED = ("Model", "Endpoint")
POD_METADATA = (
    *("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"),
    *("labels", "annotations", "ownerReferences"),
)
POD_LABELS = "paddock.dev/"
POD_CONTAINER = ("name", "image", "resources")
POD_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "startTime")
CONTAINER_STATUS = ("name", "ready", "started", "restartCount", "state", "lastState")
POD_CONDITIONS = ("Ready", "PodScheduled")
POD_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
SHARED_BYTES = 600
"""Parts of an object whose text is longer are seldom equal to those of another one."""
MAX_SHARED = 20_000

_shared: dict[str, Any] = {}


def trim(kind: Kind, item: dict[str, Any]) -> dict[str, Any]:
    """The object, trimmed; items of a list get their kind back."""
    item["apiVersion"], item["kind"] = kind.api_version, kind.name
    metadata = item["metadata"]
    metadata.pop("selfLink", None)
    entries = metadata.pop("managedFields", None) or ()
    if metadata.get("annotations"):
        metadata["annotations"].pop(DROPPED_ANNOTATION, None)
    if kind.name == "Pod":
        _trim_pod(item)
    elif kind.name == "Job":
        # A Job's spec is never compared: its template cannot change.
        item.pop("spec", None)
    elif kind.name not in DECLARED:
        metadata["managedFields"] = [_ours(entry) for entry in entries if _is_ours(entry)]
        if item.get("spec"):
            item["spec"] = Packed(item["spec"])
    return item


def _trim_pod(item: dict[str, Any]) -> None:
    """Node, images, mounted Secrets and the status: what plans, and their words about a pod in trouble, need."""
    metadata = item["metadata"] = _only(item["metadata"], POD_METADATA)
    labels = metadata.get("labels") or {}
    metadata["labels"] = share({name: value for name, value in labels.items() if name.startswith(POD_LABELS)})
    spec, status = item.get("spec") or {}, _only(item.get("status") or {}, POD_STATUS)
    secrets = [volume for volume in spec.get("volumes") or () if "secret" in volume]
    containers = [_only(part, POD_CONTAINER) for part in spec.get("containers") or ()]
    item["spec"] = share({"nodeName": spec.get("nodeName", ""), "containers": containers, "volumes": secrets})
    conditions = [entry for entry in status.get("conditions") or () if entry.get("type") in POD_CONDITIONS]
    status["conditions"] = [_only(entry, POD_CONDITION) for entry in conditions]
    status["containerStatuses"] = [_only(entry, CONTAINER_STATUS) for entry in status.get("containerStatuses") or ()]
    item["status"] = status


def share(value: Any) -> Any:
    """The same value, its small equal parts being the same objects as everywhere else. Nobody may change them."""
    if len(_shared) > MAX_SHARED:
        _shared.clear()
    return _share(value)


def _share(value: Any) -> Any:
    if not isinstance(value, dict | list):
        return value
    text = repr(value)
    if len(text) <= SHARED_BYTES:
        return _shared.setdefault(text, value)
    if isinstance(value, list):
        return [_share(item) for item in value]
    return {name: _share(item) for name, item in value.items()}


def _only(part: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: part[name] for name in names if name in part}


def _is_ours(entry: Mapping[str, Any]) -> bool:
    return entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource")


def _ours(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "manager": FIELD_MANAGER,
        "operation": "Apply",
        "apiVersion": entry.get("apiVersion", ""),
        "time": entry.get("time", ""),
        "fieldsV1": Packed(entry.get("fieldsV1") or {}),
    }
