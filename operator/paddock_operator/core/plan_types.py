"""What the plans answer: requests for an executor, the status to write, and notes that say why.

`plan_model` and `plan_endpoint` make these; executors act on them and never decide anything themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RESTART_FIELDS = ("digest", "models", "engine")
"""Fields of a serve configuration whose change needs another process; everything else is re-read by the running one."""


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence for the log and the Event: `reason` is CamelCase, `message` names what happens and why."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What should happen to a Model.

    `pull`: the puller's request (contracts: source, digest), None = no pull may run. A pull is started only when
    `observed.pull.source_hash != pull_key`; one with that key is kept, whatever its request says by now.
    `convert`: the converter's request (contracts: digest, type) once the pull brought what has to be converted, None =
    none is needed; `convert_key` as `pull_key`, empty if nothing is known of a conversion; `convert_memory` in bytes.
    `check`: the puller's request that asks whether the source of a pin moved, None = nothing is to be asked now; what
    was seen for its `check_key` is kept until there is another.
    `serve`: the serve configuration to run with, None = no runner. The executor writes exactly
    `identity.canonical_json(serve)`. `requeue_seconds`: plan again after this time at the latest (None: never).
    For clusters: `replicas` are the runners that shall exist, `standby` is `serve` also while that is zero, `memory`
    and `size` are the estimated memory and the bytes of the files of what it serves (0: unknown).
    """

    pull: Mapping[str, Any] | None
    pull_key: str
    serve: Mapping[str, Any] | None
    status: Mapping[str, Any]
    notes: tuple[Note, ...] = ()
    requeue_seconds: float | None = None
    replicas: int = 0
    standby: Mapping[str, Any] | None = None
    memory: int = 0
    size: int = 0
    convert: Mapping[str, Any] | None = None
    convert_key: str = ""
    convert_memory: int = 0
    check: Mapping[str, Any] | None = None
    check_key: str = ""


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    """What should happen to an Endpoint: the gateway configuration (None = no gateway), its status, and why."""

    gateway: Mapping[str, Any] | None
    status: Mapping[str, Any]
    notes: tuple[Note, ...] = ()
