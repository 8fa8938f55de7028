"""The table of `local_fields`: one row per field or section of the CRDs' specs, in the order of the CRDs.

Read by `local_fields` only. To add a field: add its row; tests/crds fails until it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from paddock_operator.core.model_spec import Parameters


@dataclass(frozen=True, slots=True)
class Row:
    """`when` limits the effect to some values (`condition` says it in words); other values are honoured."""

    path: str
    effect: Literal["honoured", "ignored", "refused"]
    note: str = ""
    condition: str = ""
    when: Callable[[Any], bool] | None = None


def _honoured(path: str, note: str = "") -> Row:
    return Row(path, "honoured", note)


def _ignored(path: str, note: str) -> Row:
    return Row(path, "ignored", note)


def _refused(path: str, note: str) -> Row:
    return Row(path, "refused", note)


def _above_one(value: Any) -> bool:
    return isinstance(value, int | float) and value > 1


_NO_SECRETS = (
    "credentials are Secrets of a cluster; remove secretRef, or put the model into the cache with paddock create"
)
_NOT_PULLED = "this source cannot be pulled yet; use ollama (from the cache) or http"
_CLUSTER_ONLY = "there are no pods"

_PARAMETERS = tuple(field.name for field in fields(Parameters))
_IGNORED_PARAMETERS = {
    "num_gpu": "runners use the processor only",
    "main_gpu": "runners use the processor only",
    "draft_num_predict": "there are no draft models yet",
}


def _parameter(name: str) -> Row:
    note = _IGNORED_PARAMETERS.get(name)
    path = f"spec.parameters.{name}"
    return _ignored(path, note) if note else _honoured(path)


MODEL_ROWS: tuple[Row, ...] = (
    _honoured("spec.source.ollama.name", "a name that is in the cache"),
    _honoured("spec.source.ollama.digest"),
    _refused("spec.source.ollama.secretRef", _NO_SECRETS),
    _refused("spec.source.huggingFace", _NOT_PULLED),
    _refused("spec.source.oci", _NOT_PULLED),
    _honoured("spec.source.http"),
    _refused("spec.source.claim", "there are no PersistentVolumeClaims; use paddock create and source.ollama"),
    _refused("spec.source.model", "variants of other Models are not planned yet; repeat the source of the other Model"),
    _honoured("spec.source.resolve"),
    _honoured("spec.updatePolicy"),
    _refused("spec.quantization", "nothing is converted and no file is selected yet; name a quantized model"),
    _honoured("spec.system"),
    _honoured("spec.template"),
    *(_parameter(name) for name in _PARAMETERS),
    _honoured("spec.messages"),
    _refused("spec.adapters", "adapters are not loaded yet; remove them, the answers would differ"),
    _refused("spec.projector", "images are not understood yet; remove it"),
    _honoured("spec.license", "shown in status.details.license"),
    _honoured("spec.serving.contextLength"),
    _honoured("spec.serving.slots"),
    _honoured("spec.serving.kvCache"),
    _honoured("spec.serving.flashAttention"),
    _honoured("spec.serving.keepAlive"),
    Row(
        "spec.serving.speculation",
        "ignored",
        "tokens are decoded one by one; answers are the same",
        "type is not Disabled",
        lambda value: value.get("type") != "Disabled",
    ),
    Row(
        "spec.serving.mode",
        "refused",
        "only text generation is served yet; use Generate",
        "not Generate",
        lambda value: value != "Generate",
    ),
    _honoured("spec.resources.memory", "compared with the estimate in the condition Fits; not enforced"),
    _honoured("spec.resources.cpu", "number of threads, rounded up; not enforced"),
    _refused("spec.resources.accelerator", "runners use the processor only; remove it"),
    Row(
        "spec.replicas",
        "refused",
        "one runner per Model; use 0 or 1, and serving.slots for more",
        "above 1",
        _above_one,
    ),
    Row(
        "spec.scaling.minReplicas",
        "refused",
        "one runner per Model; use 0 (unload when idle) or 1",
        "above 1",
        _above_one,
    ),
    _ignored("spec.scaling.maxReplicas", "one runner per Model"),
    _ignored("spec.scaling.targetConcurrency", "one runner per Model"),
    _honoured("spec.scaling.idleTimeout", "the weights are unloaded after it; serving.keepAlive wins"),
    _ignored("spec.scaling.schedule", "one runner per Model"),
    _ignored("spec.placement", _CLUSTER_ONLY),
    Row(
        "spec.rollout.strategy",
        "ignored",
        "the old runner drains before the new one starts",
        "not Drain",
        lambda value: value != "Drain",
    ),
    _honoured("spec.rollout.drainSeconds"),
    _ignored("spec.rollout.canary", "the self-test alone decides"),
    _honoured("spec.rollout.rollback"),
    _honoured("spec.suspend"),
)

ENDPOINT_ROWS: tuple[Row, ...] = (
    _honoured("spec.models"),
    _honoured("spec.selector"),
    _honoured("spec.auth.apiKeys"),
    _refused("spec.auth.serviceAccounts", "there are no ServiceAccounts; use apiKeys"),
    _refused("spec.auth.jwt", "tokens of identity providers are not verified yet; use apiKeys"),
    _honoured("spec.auth.none"),
    _honoured("spec.limits.requestsPerMinute"),
    Row(
        "spec.limits.tokensPerMinute",
        "refused",
        "tokens are not counted against a limit yet; use requestsPerMinute and concurrency",
        "above 0",
        lambda value: value > 0,
    ),
    _honoured("spec.limits.concurrency"),
    _honoured("spec.limits.queueDepth"),
    _honoured("spec.limits.queueWait"),
    _honoured("spec.limits.bodyBytes"),
    Row(
        "spec.apis",
        "refused",
        "anthropic is not served yet; list ollama and openai",
        "it lists anthropic",
        lambda value: "anthropic" in value,
    ),
    _ignored("spec.routing", "a Model has one runner"),
    _ignored("spec.activation", "runners are not scaled to zero; unloaded weights are loaded again by the runner"),
    Row(
        "spec.management",
        "ignored",
        "models are managed by the paddock command",
        "Enabled",
        lambda value: value == "Enabled",
    ),
    _honoured("spec.service.port", "the first Endpoint listens at --listen, the others at this port"),
    _ignored("spec.service.type", "the port is opened on this machine"),
    _ignored("spec.service.nodePort", "the port is opened on this machine"),
    _ignored("spec.service.loadBalancerClass", "the port is opened on this machine"),
    _ignored("spec.service.annotations", "the port is opened on this machine"),
    _ignored("spec.ingress", "put a reverse proxy of your own in front"),
    _ignored("spec.httpRoute", "put a reverse proxy of your own in front"),
    _refused("spec.tls", "the gateway does not encrypt; put a reverse proxy in front and remove tls"),
    _refused("spec.network", "no NetworkPolicy can enforce it; use --listen and a firewall, and remove it"),
    Row("spec.replicas", "refused", "one gateway per Endpoint; use 0 or 1", "above 1", _above_one),
)
