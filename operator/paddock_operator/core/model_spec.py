"""The typed spec of a Model: one dataclass per section of `crds/models.paddock.dev.yaml`.

Called by `resources.parse` and read by the plans. `tests/crds` keeps these classes equal to the CRD. No behavioural
default lives here: what is absent stays None (or empty) and the plan decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class SecretRef:
    name: str


@dataclass(frozen=True, slots=True)
class OllamaSource:
    name: str
    digest: str | None = None
    secret_ref: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    repo: str
    revision: str | None = None
    file: str | None = None
    secret_ref: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class OciSource:
    reference: str
    secret_ref: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class HttpSource:
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ClaimSource:
    claim_name: str
    path: str


@dataclass(frozen=True, slots=True)
class ModelSource:
    name: str


@dataclass(frozen=True, slots=True)
class Source:
    """Exactly one member is set, besides `resolve`, a free token whose change asks for a new resolution."""

    ollama: OllamaSource | None = None
    hugging_face: HuggingFaceSource | None = None
    oci: OciSource | None = None
    http: HttpSource | None = None
    claim: ClaimSource | None = None
    model: ModelSource | None = None
    resolve: str | None = None

    @property
    def pinned_digest(self) -> str | None:
        """The manifest digest (`sha256:<hex>`) that the spec itself demands, if any."""
        return (self.ollama.digest or self.ollama.name.partition("@")[2] or None) if self.ollama else None


@dataclass(frozen=True, slots=True)
class HuggingFaceFile:
    repo: str
    file: str
    revision: str | None = None
    secret_ref: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """Where an adapter or a projector comes from: exactly one member is set."""

    hugging_face: HuggingFaceFile | None = None
    oci: OciSource | None = None
    http: HttpSource | None = None
    claim: ClaimSource | None = None


@dataclass(frozen=True, slots=True)
class UpdatePolicy:
    type: str
    interval: str | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """Every Modelfile PARAMETER under Ollama's own name, and the further samplers of llama.cpp's chain."""

    WIRE_NAMES: ClassVar[str] = "as-is"

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    num_thread: int | None = None
    draft_num_predict: int | None = None
    num_keep: int | None = None
    seed: int | None = None
    num_predict: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    repeat_last_n: int | None = None
    temperature: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Adapter:
    name: str
    source: FileSource
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class Projector:
    source: FileSource


@dataclass(frozen=True, slots=True)
class KVCache:
    type_k: str | None = None
    type_v: str | None = None
    cells: int | None = None


@dataclass(frozen=True, slots=True)
class DraftModel:
    name: str


@dataclass(frozen=True, slots=True)
class Speculation:
    type: str
    draft_model: DraftModel | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    context_length: int | None = None
    slots: int | None = None
    kv_cache: KVCache | None = None
    flash_attention: str | None = None
    keep_alive: str | None = None
    speculation: Speculation | None = None
    mode: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    name: str | None = None
    template_name: str | None = None


@dataclass(frozen=True, slots=True)
class Accelerator:
    vendor: str
    count: int | None = None
    memory: str | None = None
    product: str | None = None
    resource_name: str | None = None
    claim: DeviceClaim | None = None
    layers: int | str | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """`memory`, `cpu` are Kubernetes quantities (`memory` may be `Auto`); numbers are accepted for both."""

    memory: int | str | None = None
    cpu: int | str | None = None
    accelerator: Accelerator | None = None


@dataclass(frozen=True, slots=True)
class ScheduleEntry:
    name: str
    start: str
    duration: str
    min_replicas: int
    time_zone: str | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    max_replicas: int
    min_replicas: int | None = None
    target_concurrency: int | None = None
    idle_timeout: str | None = None
    schedule: tuple[ScheduleEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Toleration:
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    toleration_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """The usual pod fields; affinity and spread constraints stay as written, Kubernetes itself checks them."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    topology_spread_constraints: tuple[Mapping[str, Any], ...] = ()
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    scheduler_name: str | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    prompt: str
    expect: str
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    strategy: str | None = None
    drain_seconds: int | None = None
    canary: Canary | None = None
    rollback: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    source: Source
    update_policy: UpdatePolicy | None = None
    quantization: str | None = None
    system: str | None = None
    template: str | None = None
    parameters: Parameters | None = None
    messages: tuple[Message, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    projector: Projector | None = None
    license: str | None = None
    serving: Serving | None = None
    resources: Resources | None = None
    replicas: int | None = None
    scaling: Scaling | None = None
    placement: Placement | None = None
    rollout: Rollout | None = None
    suspend: bool | None = None
