"""Whether a manifest must be applied: live differs in a planned field, or a field we owned is no longer planned.

Called by `executors.kube.apply` before each write, so that nothing is written when nothing changed. Foreign fields do
not count. Without the schema of a kind, lists are matched by the merge keys that Kubernetes' own kinds use.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from paddock_operator.core.cluster.labels import FIELD_MANAGER
from paddock_operator.core.quantity import quantity

MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "conditions": ("type",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
"""Lists that are maps: foreign items may stand between ours. `ports` are matched by what a planned item says."""
SETS = frozenset({"finalizers"})
QUANTITIES = frozenset({"limits", "requests", "hard", "capacity"})
QUANTITY_FIELDS = frozenset({"sizeLimit", "storage", "divisor"})


def needs_apply(live: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether applying `manifest` would change `live` (managedFields trimmed to our own entry)."""
    planned = as_stored(manifest)
    return not covers(live, planned) or drops(live, planned)


def as_stored(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest as the API server keeps it: a Secret's `stringData` is base64 in `data`."""
    plain = manifest.get("stringData")
    if not plain:
        return manifest
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in plain.items()}
    kept = {name: value for name, value in manifest.items() if name != "stringData"}
    return {**kept, "data": {**(manifest.get("data") or {}), **encoded}}


def covers(live: Any, planned: Any, field: str = "", parent: str = "") -> bool:
    """Whether every planned value is live. An empty or zero value equals an absent one: the API server drops those."""
    if isinstance(planned, Mapping):
        return isinstance(live, Mapping) and all(
            covers(live[name], value, name, field) if name in live else not value for name, value in planned.items()
        )
    if isinstance(planned, list | tuple):
        return isinstance(live, list | tuple) and _covers_list(live, planned, field)
    if planned == live and isinstance(planned, bool) == isinstance(live, bool):
        return True
    if parent in QUANTITIES or field in QUANTITY_FIELDS:
        return _same_quantity(planned, live)
    return planned is None and not live


def _covers_list(live: Sequence[Any], planned: Sequence[Any], field: str) -> bool:
    if field in SETS:
        return all(item in live for item in planned)
    if len(live) == len(planned) and all(covers(there, item) for there, item in zip(live, planned, strict=True)):
        return True
    if not _is_map(field):
        return False
    return all((found := _find(live, field, item)) is not None and covers(found, item) for item in planned)


def _is_map(field: str) -> bool:
    return field in MERGE_KEYS or field == "ports"


def _find(items: Sequence[Any], field: str, wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    keys = MERGE_KEYS.get(field) or [name for name in ("port", "containerPort", "protocol") if name in wanted]
    return next((item for item in items if all(item.get(key) == wanted.get(key) for key in keys)), None)


@lru_cache(maxsize=4096)
def _same_quantity(planned: str | int | float | None, live: str | int | float | None) -> bool:
    try:
        return quantity(planned or 0) == quantity(live or 0)  # type: ignore[arg-type]
    except ValueError:
        return str(planned) == str(live)


def drops(live: Mapping[str, Any], planned: Mapping[str, Any]) -> bool:
    """Whether our field manager owns a field of `live` that is no longer planned."""
    return any(
        _drops(entry.get("fieldsV1") or {}, planned)
        for entry in (live.get("metadata") or {}).get("managedFields") or ()
        if entry.get("manager") == FIELD_MANAGER and entry.get("apiVersion") in (None, "", planned.get("apiVersion"))
    )


def _drops(owned: Mapping[str, Any], planned: Any) -> bool:
    for path, below in owned.items():
        if path == ".":
            continue
        found, value = _step(path, planned)
        if not found or (below and _drops(below, value)):
            return True
    return False


def _step(path: str, planned: Any) -> tuple[bool, Any]:
    """Follow one element of fieldsV1: a field, an item of a list by its keys, or a member of a set."""
    kind, _, rest = path.partition(":")
    if kind == "f":
        there = isinstance(planned, Mapping) and rest in planned
        return there, planned[rest] if there else None
    if not isinstance(planned, list | tuple):
        return False, None
    wanted = _element(rest)
    if kind == "v":
        return wanted in planned, None
    for item in planned:
        # An absent key stands for the schema's default, such as protocol TCP.
        if all(item.get(name, value) == value for name, value in wanted.items()):
            return True, item
    return False, None


@lru_cache(maxsize=4096)
def _element(text: str) -> Any:
    return json.loads(text)
