"""What is kept of an object in memory: enough for plans and for the comparison with a manifest, and no more.

Called by `store` for each object that arrives. It changes the freshly parsed object in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddock_operator.core.cluster.labels import FIELD_MANAGER
from paddock_operator.executors.kube.kinds import Kind

DROPPED_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
DECLARED = ("Model", "Endpoint")
POD_CONTAINER = ("name", "image", "resources")
POD_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses", "startTime")
MAX_SHARED = 50_000

_shared: dict[Any, Any] = {}


def trim(kind: Kind, item: dict[str, Any]) -> dict[str, Any]:
    """The object, trimmed; items of a list get their kind back."""
    item["apiVersion"], item["kind"] = kind.api_version, kind.name
    metadata = item["metadata"]
    metadata.pop("selfLink", None)
    entries = metadata.pop("managedFields", None) or ()
    if metadata.get("annotations"):
        metadata["annotations"].pop(DROPPED_ANNOTATION, None)
    if kind.name == "Pod":
        item["spec"] = share(_pod_spec(item.get("spec") or {}))
        item["status"] = _only(item.get("status"), POD_STATUS)
    elif kind.name not in DECLARED:
        metadata["managedFields"] = [_ours(entry) for entry in entries if _is_ours(entry)]
        share_template(item)
    return item


def share_template(item: dict[str, Any]) -> None:
    """Keep equal parts of pod templates once: a thousand Deployments differ in a few strings only."""
    spec = item.get("spec")
    if spec and "template" in spec:
        spec["template"] = share(spec["template"])


def share(value: Any) -> Any:
    """The same value, its equal parts being the same objects as everywhere else. Nobody may change them."""
    if len(_shared) > MAX_SHARED:
        _shared.clear()
    return _share(value)


def _share(value: Any) -> Any:
    if isinstance(value, dict):
        made: Any = {_share(name): _share(item) for name, item in value.items()}
        return _shared.setdefault(("d", *((id(name), id(item)) for name, item in made.items())), made)
    if isinstance(value, list):
        made = [_share(item) for item in value]
        return _shared.setdefault(("l", *(id(item) for item in made)), made)
    return _shared.setdefault((type(value), value), value)


def _pod_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Node, images, and which Secrets are mounted: what the words about a pod in trouble need."""
    secrets = [volume for volume in spec.get("volumes") or () if "secret" in volume]
    containers = [_only(item, POD_CONTAINER) for item in spec.get("containers") or ()]
    return {"nodeName": spec.get("nodeName", ""), "containers": containers, "volumes": secrets}


def _only(part: Mapping[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: part[name] for name in names if name in part} if part else {}


def _is_ours(entry: Mapping[str, Any]) -> bool:
    return entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply" and not entry.get("subresource")


def _ours(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "manager": FIELD_MANAGER,
        "operation": "Apply",
        "apiVersion": entry.get("apiVersion", ""),
        "time": entry.get("time", ""),
        "fieldsV1": share(entry.get("fieldsV1") or {}),
    }
