"""The smaller children of a Model: ConfigMaps with serve configurations, the headless Service, the disruption budget.

Called by `model`. A ConfigMap belongs to one revision; its hot fields follow the spec as long as a pod reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paddock_operator.core.cluster.labels import (
    CONFIG_HASH,
    RUNNER,
    RUNNER_PORT,
    common_labels,
    config_map_name,
    pod_selector,
    revision_of,
)
from paddock_operator.core.cluster.meta import metadata
from paddock_operator.core.cluster.observed import ModelSeen, Object
from paddock_operator.core.cluster.pods import meta
from paddock_operator.core.identity import canonical_json, child_name, config_hash
from paddock_operator.core.plan_types import RESTART_FIELDS
from paddock_operator.core.resources import Model

FILE = "serve.json"


def config_map(seen: ModelSeen, model: Model, config: Mapping[str, Any]) -> dict[str, Any]:
    """The ConfigMap of the revision of a serve configuration."""
    labels = common_labels(model.ref, RUNNER)
    name = config_map_name(model.ref, revision_of(dict(config)))
    marks = {CONFIG_HASH: config_hash(config)}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name, model.ref.namespace, labels, marks, seen.model),
        "data": {FILE: canonical_json(config).decode()},
    }


def find_config_map(seen: ModelSeen, model: Model, revision: str) -> Object | None:
    """The live ConfigMap of a revision."""
    name = config_map_name(model.ref, revision)
    return next((item for item in seen.children.config_maps if meta(item).get("name") == name), None)


def live_config(document: Object | None) -> dict[str, Any] | None:
    """The serve configuration in a ConfigMap, None if it holds none."""
    try:
        found = json.loads(((document or {}).get("data") or {})[FILE])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and all(name in found for name in RESTART_FIELDS) else None


def refreshed(seen: ModelSeen, model: Model, revision: str, hot: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The ConfigMap of an older revision with the hot fields of `hot`; None: leave the live one as it is."""
    kept = live_config(find_config_map(seen, model, revision))
    if hot is None or kept is None or revision_of(kept) != revision:
        return None
    return config_map(seen, model, {**hot, **{name: kept[name] for name in RESTART_FIELDS}})


def runner_service(seen: ModelSeen, model: Model) -> dict[str, Any]:
    """The headless Service: its EndpointSlices are the ready runners."""
    labels = common_labels(model.ref, RUNNER)
    port = {"name": "http", "port": RUNNER_PORT, "targetPort": "http", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(child_name(model.ref), model.ref.namespace, labels, None, seen.model),
        "spec": {
            "clusterIP": "None",
            "selector": pod_selector(model.ref, RUNNER),
            "ports": [port],
        },
    }


def disruption_budget(seen: ModelSeen, model: Model) -> dict[str, Any]:
    """A node that is emptied takes one runner after the other; runners that do not work never block it."""
    labels = common_labels(model.ref, RUNNER)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(child_name(model.ref), model.ref.namespace, labels, None, seen.model),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": pod_selector(model.ref, RUNNER)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
