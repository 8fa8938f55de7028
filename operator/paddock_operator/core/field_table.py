"""The table of `fields`: one row per field or section of the CRDs' specs, in the order of the CRDs.

Read by `fields` only. To add a field: add its row; tests/crds fails until it is here. What only tunes may be ignored;
what changes answers, protects or was asked for and cannot be had is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, Literal

from paddock_operator.core.model_spec import Parameters


@dataclass(frozen=True, slots=True)
class Effect:
    """`when` limits the effect to some values (`condition` says it in words); other values are honoured."""

    kind: Literal["honoured", "ignored", "refused"]
    note: str = ""
    condition: str = ""
    when: Callable[[Any], bool] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What a field does in the pods of a cluster and in the processes of one machine."""

    path: str
    cluster: Effect
    local: Effect


def _honoured(note: str = "") -> Effect:
    return Effect("honoured", note)


def _ignored(note: str, condition: str = "", when: Callable[[Any], bool] | None = None) -> Effect:
    return Effect("ignored", note, condition, when)


def _refused(note: str, condition: str = "", when: Callable[[Any], bool] | None = None) -> Effect:
    return Effect("refused", note, condition, when)


def _same(path: str, effect: Effect) -> Row:
    return Row(path, effect, effect)


def _alike(*paths: str) -> tuple[Row, ...]:
    """Fields that simply act, on both."""
    return tuple(_same(path, _honoured()) for path in paths)


def _on_cluster(path: str, local: Effect, note: str = "") -> Row:
    return Row(path, _honoured(note), local)


def _above_one(value: Any) -> bool:
    return isinstance(value, int | float) and value > 1


def _one_at_most(note: str) -> Effect:
    return _refused(note, "above 1", _above_one)


_MOUNTED = "a Secret of the same namespace, mounted into the puller only"
_DECLARED = "a Secret among the manifests, given to the puller only"
_NO_PODS = "there are no pods"
_PROCESSOR = "runners use the processor only"
_NOT_SCALED = "runners are not scaled by demand or time yet"
_ONE_RUNNER = "one runner per Model"
_THIS_MACHINE = "the port is opened on this machine"
_OWN_PROXY = "put a reverse proxy of your own in front"
_OPENS_NOTHING = "are not verified yet and open nothing; use apiKeys"

_PARAMETERS = tuple(field.name for field in fields_of(Parameters))
_IGNORED_PARAMETERS = {
    "num_gpu": _PROCESSOR,
    "main_gpu": _PROCESSOR,
    "draft_num_predict": "there are no draft models yet",
}


def _parameter(name: str) -> Row:
    note = _IGNORED_PARAMETERS.get(name)
    return _same(f"spec.parameters.{name}", _ignored(note) if note else _honoured())


MODEL_ROWS: tuple[Row, ...] = (
    _same("spec.source.ollama.name", _honoured("from the cache if it holds the name, else from its registry")),
    *_alike("spec.source.ollama.digest"),
    Row("spec.source.ollama.secretRef", _honoured(_MOUNTED), _honoured(_DECLARED)),
    *_alike("spec.source.huggingFace.repo", "spec.source.huggingFace.revision", "spec.source.huggingFace.file"),
    Row("spec.source.huggingFace.secretRef", _honoured(_MOUNTED), _honoured(_DECLARED)),
    *_alike("spec.source.oci.reference"),
    Row("spec.source.oci.secretRef", _honoured(_MOUNTED), _honoured(_DECLARED)),
    *_alike("spec.source.http"),
    _on_cluster(
        "spec.source.claim",
        _refused("there are no PersistentVolumeClaims; use paddock create and source.ollama"),
        "mounted read-only into the puller; its files are copied, or cloned where the filesystem can",
    ),
    Row("spec.source.model", _honoured("with cache.mode Node refused if the other Model is converted"), _honoured()),
    *_alike("spec.source.resolve"),
    _same("spec.updatePolicy", _honoured("with source.model, Track follows the other Model at once")),
    _same("spec.quantization", _honoured("selects a file of a repository, or converts F32, F16 or BF16 once")),
    *_alike("spec.system", "spec.template"),
    *(_parameter(name) for name in _PARAMETERS),
    *_alike("spec.messages"),
    _same("spec.adapters", _refused("adapters are not loaded yet; remove them, the answers would differ")),
    _same("spec.projector", _refused("images are not understood yet; remove it")),
    _same("spec.license", _honoured("shown in status.details.license")),
    *_alike(
        "spec.serving.contextLength",
        "spec.serving.slots",
        "spec.serving.kvCache",
        "spec.serving.flashAttention",
        "spec.serving.keepAlive",
    ),
    _same(
        "spec.serving.speculation",
        _ignored(
            "tokens are decoded one by one; answers are the same",
            "type is not Disabled",
            lambda value: value.get("type") != "Disabled",
        ),
    ),
    *_alike("spec.serving.mode"),
    Row(
        "spec.resources.memory",
        _honoured("request and limit of each runner"),
        _honoured("compared with the estimate in the condition Fits; not enforced"),
    ),
    Row(
        "spec.resources.cpu",
        _honoured("request and limit of each runner; its number of threads, rounded up"),
        _honoured("number of threads, rounded up; not enforced"),
    ),
    _same("spec.resources.accelerator", _refused(f"{_PROCESSOR}; remove it")),
    _on_cluster("spec.replicas", _one_at_most("one runner per Model; use 0 or 1, and serving.slots for more")),
    _on_cluster(
        "spec.scaling.minReplicas",
        _one_at_most("one runner per Model; use 0 (unload when idle) or 1"),
        "with 0 one runner stays, whose weights are unloaded when idle",
    ),
    Row("spec.scaling.maxReplicas", _ignored(_NOT_SCALED), _ignored(_ONE_RUNNER)),
    Row("spec.scaling.targetConcurrency", _ignored(_NOT_SCALED), _ignored(_ONE_RUNNER)),
    _same(
        "spec.scaling.idleTimeout",
        _honoured("with minReplicas 0 the weights are unloaded after it; serving.keepAlive wins"),
    ),
    Row("spec.scaling.schedule", _ignored(_NOT_SCALED), _ignored(_ONE_RUNNER)),
    _on_cluster("spec.placement", _ignored(_NO_PODS)),
    _on_cluster(
        "spec.rollout.strategy",
        _ignored("the old runner drains before the new one starts", "not Drain", lambda value: value != "Drain"),
    ),
    *_alike("spec.rollout.drainSeconds"),
    _same("spec.rollout.canary", _refused("no question is asked before a digest serves, only a self-test; remove it")),
    *_alike("spec.rollout.rollback", "spec.suspend"),
)

ENDPOINT_ROWS: tuple[Row, ...] = (
    *_alike("spec.models", "spec.selector", "spec.auth.apiKeys"),
    Row(
        "spec.auth.serviceAccounts",
        _refused(f"tokens of ServiceAccounts {_OPENS_NOTHING}"),
        _refused("there are no ServiceAccounts; use apiKeys"),
    ),
    _same("spec.auth.jwt", _refused(f"tokens of identity providers {_OPENS_NOTHING}")),
    *_alike("spec.auth.none", "spec.limits.requestsPerMinute"),
    _same(
        "spec.limits.tokensPerMinute",
        _refused(
            "tokens are not counted yet; use requestsPerMinute and concurrency", "above 0", lambda value: value > 0
        ),
    ),
    *_alike("spec.limits.concurrency", "spec.limits.queueDepth", "spec.limits.queueWait", "spec.limits.bodyBytes"),
    _same(
        "spec.apis",
        _refused(
            "anthropic is not served yet; list ollama and openai",
            "it lists anthropic",
            lambda value: "anthropic" in value,
        ),
    ),
    Row("spec.routing", _ignored("connections are spread over the runners"), _ignored("a Model has one runner")),
    _same(
        "spec.activation",
        _ignored("nobody wakes a Model of zero runners; unloaded weights are loaded again by their runner"),
    ),
    Row(
        "spec.management",
        _ignored("Models are managed by manifests", "Enabled", lambda value: value == "Enabled"),
        _ignored("models are managed by the paddock command", "Enabled", lambda value: value == "Enabled"),
    ),
    Row("spec.service.port", _honoured(), _honoured("the first Endpoint listens at --listen, the others at this port")),
    _on_cluster("spec.service.type", _ignored(_THIS_MACHINE)),
    _on_cluster("spec.service.nodePort", _ignored(_THIS_MACHINE)),
    _on_cluster("spec.service.loadBalancerClass", _ignored(_THIS_MACHINE)),
    _on_cluster("spec.service.annotations", _ignored(_THIS_MACHINE)),
    _on_cluster("spec.ingress", _ignored(_OWN_PROXY)),
    _on_cluster("spec.httpRoute", _ignored(_OWN_PROXY), "Ready is Degraded if the cluster does not know the kind"),
    _on_cluster("spec.tls", _refused("the gateway does not encrypt; put a reverse proxy in front and remove tls")),
    _on_cluster(
        "spec.network",
        _refused("no NetworkPolicy can enforce it; use --listen and a firewall, and remove it"),
    ),
    _on_cluster("spec.replicas", _one_at_most("one gateway per Endpoint; use 0 or 1")),
)
