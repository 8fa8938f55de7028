"""The Deployment of a Model's runners. Called by `model`.

Only what needs another process enters the pod template: the revision (digest, engine), resources, placement, images and
the time to drain. Everything else is in the ConfigMap that the pod reads while it runs.
"""

from __future__ import annotations

from typing import Any

from paddock_operator.core.cluster.labels import (
    CACHE_PATH,
    CONFIG_PATH,
    REVISION,
    RUNNER,
    RUNNER_PORT,
    common_labels,
    config_map_name,
    pod_selector,
)
from paddock_operator.core.cluster.meta import (
    GRACE_SECONDS,
    cache_mount,
    cache_volume,
    container,
    metadata,
    pod_spec,
    serving,
)
from paddock_operator.core.cluster.observed import ModelSeen
from paddock_operator.core.cluster.placement import runner_fields, runner_resources
from paddock_operator.core.identity import child_name
from paddock_operator.core.model_spec import ModelSpec
from paddock_operator.core.plan_serve import drain_seconds
from paddock_operator.core.plan_types import ModelPlan
from paddock_operator.core.resources import Model
from paddock_operator.core.wire import to_wire

START_SECONDS = 120
BYTES_PER_SECOND = 50_000_000
"""A slow disk: how long a start may take is counted with it."""
MOST_START_SECONDS = 7200
PROGRESS_SECONDS = 600
FRONT_BYTES = 64 << 20
"""What a busy front takes beyond `memory.PROCESS_BYTES`. Measured with SmolLM2-135M, 4 slots of 2048 tokens and eight
chats at once: 375 MiB of all processes (front 40, template helper 11) where 532 MiB are estimated; so this is for 64
waiting requests with bodies of some hundred KiB each.
"""


def runner_deployment(seen: ModelSeen, model: Model, plan: ModelPlan, revision: str) -> dict[str, Any]:
    """The complete Deployment for what the plan serves (or would serve, if none is wanted now)."""
    selector = pod_selector(model.ref, RUNNER)
    labels = common_labels(model.ref, RUNNER)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(child_name(model.ref), model.ref.namespace, labels, None, seen.model),
        "spec": {
            "replicas": plan.replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": PROGRESS_SECONDS + _start_seconds(plan.size),
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": _rolling(model.spec)},
            "template": {
                "metadata": {"labels": {**labels, REVISION: revision}},
                "spec": _pod(seen, model, plan, revision),
            },
        },
    }


def asked(model: Model, revision: str) -> dict[str, Any]:
    """What of the spec enters the pod template, for `rolls.roll`."""
    document: dict[str, Any] = {"revision": revision, "drain": drain_seconds(model.spec)}
    return document | {"resources": to_wire(model.spec.resources), "placement": to_wire(model.spec.placement)}


def _rolling(spec: ModelSpec) -> dict[str, int]:
    drain = spec.rollout is not None and spec.rollout.strategy == "Drain"
    return {"maxSurge": 0, "maxUnavailable": 1} if drain else {"maxSurge": 1, "maxUnavailable": 0}


def _start_seconds(size: int) -> int:
    return min(START_SECONDS + size // BYTES_PER_SECOND, MOST_START_SECONDS)


def _pod(seen: ModelSeen, model: Model, plan: ModelPlan, revision: str) -> dict[str, Any]:
    spec, images = model.spec, seen.settings.images
    config = {"name": "config", "configMap": {"name": config_map_name(model.ref, revision)}}
    needed = plan.memory + FRONT_BYTES if plan.memory else 0
    runner = container(
        RUNNER,
        images.runner,
        images,
        ["serve", "--config", f"{CONFIG_PATH}/serve.json", "--listen", f"[::]:{RUNNER_PORT}"],
        runner_resources(spec.resources, needed),
        mounts=[
            cache_mount(CACHE_PATH, read_only=True),
            {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
        ],
        ports=[{"name": "http", "containerPort": RUNNER_PORT, "protocol": "TCP"}],
        **serving("http", _start_seconds(plan.size)),
    )
    return pod_spec(
        "paddock-runner",
        images,
        [runner],
        [cache_volume(seen.settings.cache.claim_name, read_only=True), config],
        terminationGracePeriodSeconds=drain_seconds(spec) + GRACE_SECONDS,
        **runner_fields(spec.placement, pod_selector(model.ref, RUNNER)),
    )
