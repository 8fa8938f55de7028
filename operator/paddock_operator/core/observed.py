"""What an executor saw, as plain data: the only input of the plans besides the objects themselves.

Filled by executors (local: child processes; cluster: pods), read by `plan_model` and `plan_endpoint`. Sizes are bytes,
times are RFC 3339 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from paddock_operator.core.bases import Base, Origin
from paddock_operator.core.fields import Platform
from paddock_operator.core.resources import Endpoint, KeyRecord, Model

PullState = Literal["none", "running", "succeeded", "failed"]
RunnerState = Literal["none", "starting", "loading", "ready", "unloaded", "crashed", "stopped"]
GatewayState = Literal["none", "starting", "ready", "crashed", "stopped"]


@dataclass(frozen=True, slots=True)
class PullResult:
    """R of the contracts: what the puller reports when the bytes of a manifest are in the cache and verified.

    `revision` is what a moving word meant (a commit, a digest), `validator` what to ask with next time; empty where the
    source tells none. Of a mere check: what the source would bring, `files` by their digests alone.
    """

    digest: str
    name: str
    size: int
    files: tuple[Mapping[str, Any], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    revision: str = ""
    validator: str = ""

    @classmethod
    def from_wire(cls, result: Mapping[str, Any]) -> PullResult:
        """Read the `result` object of the puller's event. Raises KeyError if digest, name or size is missing."""
        return cls(
            str(result["digest"]),
            str(result["name"]),
            int(result["size"]),
            tuple(result.get("files") or ()),
            result.get("details") or {},
            str(result.get("revision") or ""),
            str(result.get("validator") or ""),
        )

    @classmethod
    def from_check(cls, event: Mapping[str, Any]) -> PullResult:
        """Read the puller's event `checked`."""
        files = tuple({"digest": str(digest)} for digest in event.get("files") or ())
        return cls(str(event.get("digest") or ""), "", 0, files, revision=str(event.get("revision") or ""))


@dataclass(frozen=True, slots=True)
class PullObserved:
    """A pull, or a conversion. `source_hash` is the `ModelPlan.pull_key` (`convert_key`) that it was started for.

    `node`: the bytes are in a cache and are brought to this node, where a runner waits for them; empty: to the cache.
    """

    state: PullState = "none"
    source_hash: str = ""
    completed: int = 0
    total: int = 0
    result: PullResult | None = None
    reason: str = ""
    message: str = ""
    retryable: bool = False
    attempts: int = 0
    node: str = ""


@dataclass(frozen=True, slots=True)
class RunnerObserved:
    """`config_hash` and `digest` are what `/readyz` said last; `memory` is its `memory` object.

    On a cluster this is about the pods of the wanted revision: `reason` is a reason of the conditions if they have
    trouble (`message` words it) and `counts` are all runner pods and the ready ones, of whatever revision.
    `bytes_missing`: the runner did not find its digest in the cache, or found it damaged. `rolling`: an edit asks
    for other pods (memory, placement …) that have not replaced all old ones, though these may serve the same.
    """

    state: RunnerState = "none"
    config_hash: str = ""
    digest: str = ""
    address: str = ""
    restarts: int = 0
    message: str = ""
    memory: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    counts: tuple[int, int] | None = None
    bytes_missing: bool = False
    rolling: bool = False


@dataclass(frozen=True, slots=True)
class GatewayObserved:
    """`config_hash` is what `/readyz` said last; `address` is `http://host:port`.

    `reason` (of the closed list of Ready) is for a platform that knows better than `state` why the gateway is not
    ready, or only partly; empty: `state` says it all. `replicas` and `ready_replicas` None: follow from `state`.
    """

    state: GatewayState = "none"
    config_hash: str = ""
    address: str = ""
    restarts: int = 0
    message: str = ""
    reason: str = ""
    replicas: int | None = None
    ready_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class ModelObserved:
    """`status` is the last one that was written (empty for a new Model); `credentials` are (endpoint id, SHA-256 hex).

    `memory_available` is what the machine (or its cgroup) has in total for this Model, 0 if unknown. `unsupported`:
    what the spec asks for and this platform cannot do, in words. `refused`: what an API server says of an object that
    it does not take. `convert`: the conversion that follows the pull (`source_hash` is the `ModelPlan.convert_key`).
    `base`: the Model that `spec.source.model` names, None for other sources; `origin`: what a puller has to ask for
    its bytes, None where they are in the variant's cache as soon as they are in its base's. `check`: the last question
    whether the source of a pin moved (`source_hash` is the `ModelPlan.check_key`), `check_seconds` between two (0:
    never).
    """

    model: Model
    status: Mapping[str, Any]
    pull: PullObserved
    runner: RunnerObserved
    names: tuple[str, ...]
    credentials: tuple[tuple[str, str], ...]
    models_dir: str
    now: str
    memory_available: int = 0
    platform: Platform = "local"
    unsupported: str = ""
    refused: str = ""
    convert: PullObserved = PullObserved()
    base: Base | None = None
    origin: Origin | None = None
    check: PullObserved = PullObserved()
    check_seconds: float = 0.0

    @property
    def is_off(self) -> bool:
        """Whether neither a pull nor a runner may be."""
        return bool(self.model.spec.suspend or self.unsupported)


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """What an Endpoint needs to know of a Model: taken from its object and its freshly planned status.

    `service` is the name of its headless Service on a cluster.
    """

    name: str
    ready: bool
    available: bool
    reason: str
    digest: str
    size: int
    details: Mapping[str, Any]
    modified_at: str
    addresses: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    service: str = ""


@dataclass(frozen=True, slots=True)
class EndpointObserved:
    """`models` are all Models of the Endpoint's namespace by name; `backend_credential` is clear text.

    `refused`: what an API server says of an object that it does not take.
    """

    endpoint: Endpoint
    status: Mapping[str, Any]
    models: Mapping[str, ModelSnapshot]
    gateway: GatewayObserved
    keys: tuple[KeyRecord, ...]
    backend_credential: str
    listen_url: str
    now: str
    platform: Platform = "local"
    refused: str = ""
