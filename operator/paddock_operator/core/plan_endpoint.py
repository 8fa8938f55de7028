"""What should happen to an Endpoint: the gateway configuration and the status.

Called by the local executor for each ring of an Endpoint's key, and by the plan of a cluster. Ready speaks of the
gateway only (it serves exactly the planned configuration); ModelsReady speaks of the Models. A Model that does not
exist is a condition, never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paddock_operator.core.clock import duration_seconds, unix_seconds
from paddock_operator.core.cluster.endpoint_fields import served_apis
from paddock_operator.core.cluster.labels import GATEWAY, RUNNER_PORT, pod_selector
from paddock_operator.core.conditions import GATEWAY_SPEC, Condition, Verdict, changes, condition, find, merge
from paddock_operator.core.endpoint_routes import Conflict, Route, routes
from paddock_operator.core.endpoint_spec import EndpointSpec, Limits
from paddock_operator.core.fields import ignored_fields
from paddock_operator.core.identity import config_hash, selector
from paddock_operator.core.observed import EndpointObserved, ModelSnapshot
from paddock_operator.core.plan_types import EndpointPlan
from paddock_operator.core.resources import KeyRecord
from paddock_operator.core.wire import to_wire

DRAIN_SECONDS = 30
DEFAULT_APIS = ("ollama", "openai")
DEFAULT_REPLICAS = {"local": 1, "cluster": 2}
SHOWN_NAMES = 10
EPOCH = "1970-01-01T00:00:00Z"


def plan_endpoint(o: EndpointObserved) -> EndpointPlan:
    """Decide gateway configuration and status. Never raises for anything that a checked manifest can hold."""
    found, conflicts = routes(o.endpoint.spec, o.models)
    keys = usable_keys(o)
    config = None if o.endpoint.spec.replicas == 0 else _config(o, found, keys)
    gateway = o.gateway
    conditions = merge(o.status, _conditions(o, config, found, conflicts), o.now)
    running = int(gateway.state not in ("none", "stopped"))
    ready = int(gateway.state == "ready")
    status = {
        "observedGeneration": o.endpoint.generation,
        "conditions": conditions,
        "url": o.listen_url,
        "models": [_model_status(route) for route in found],
        "replicas": running if gateway.replicas is None else gateway.replicas,
        "readyReplicas": ready if gateway.ready_replicas is None else gateway.ready_replicas,
        "selector": _selector(o),
        "effective": _effective(o, keys),
    }
    kept = {name: value for name, value in status.items() if value not in ("", [], None)}
    return EndpointPlan(config, kept, changes(o.status, conditions))


def gateway_config(o: EndpointObserved) -> dict[str, Any]:
    """The gateway configuration, also of an Endpoint that runs no gateway now (on a cluster its Secret stays)."""
    return _config(o, routes(o.endpoint.spec, o.models)[0], usable_keys(o))


def wanted_replicas(o: EndpointObserved) -> int:
    """How many gateways should run."""
    default = DEFAULT_REPLICAS[o.platform]
    return default if o.endpoint.spec.replicas is None else o.endpoint.spec.replicas


def usable_keys(o: EndpointObserved) -> tuple[KeyRecord, ...]:
    """The keys that open this Endpoint, sorted; of two with one hash the first by name counts.

    `spec.auth.apiKeys.names` limits the keys of the Endpoint's namespace; a key of elsewhere is one of the executor.
    An `auth` without `apiKeys` admits no key.
    """
    auth = o.endpoint.spec.auth
    if auth and (auth.none is not None or auth.api_keys is None):
        return ()
    names = auth.api_keys.names if auth and auth.api_keys else ()
    unique: dict[str, KeyRecord] = {}
    for key in sorted(o.keys, key=lambda key: key.id):
        namespace, _, name = key.id.partition("/")
        if not names or name in names or namespace != o.endpoint.ref.namespace:
            unique.setdefault(key.sha256, key)
    return tuple(unique.values())


def _config(o: EndpointObserved, found: Iterable[Route], keys: Iterable[KeyRecord]) -> dict[str, Any]:
    return {
        "version": 1,
        "namespace": o.endpoint.ref.namespace,
        "name": o.endpoint.ref.name,
        "auth": _auth(o.endpoint.spec),
        "keys": [_key(key) for key in keys],
        "models": [_route(o, route.model, route.names) for route in found if route.model and route.names],
        "backendCredential": o.backend_credential,
        "limits": _limits(o.endpoint.spec.limits or Limits()),
        "apis": _apis(o),
        "drainSeconds": DRAIN_SECONDS,
    }


def _selector(o: EndpointObserved) -> str:
    if o.platform == "local":
        return selector(o.endpoint.ref)
    return ",".join(f"{key}={value}" for key, value in pod_selector(o.endpoint.ref, GATEWAY).items())


def _auth(spec: EndpointSpec) -> str:
    return "none" if spec.auth and spec.auth.none is not None else "apiKey"


def _apis(o: EndpointObserved) -> list[str]:
    wanted = o.endpoint.spec.apis or DEFAULT_APIS
    return sorted(wanted if o.platform == "local" else served_apis(wanted))


def _key(key: KeyRecord) -> dict[str, Any]:
    compiled: dict[str, Any] = {
        "id": key.id,
        "sha256": key.sha256,
        "models": list(key.models),
        "verbs": list(key.verbs),
        "expires": unix_seconds(key.expires) if key.expires else None,
    }
    if key.previous:
        compiled["previous"] = {"sha256": key.previous.sha256, "until": unix_seconds(key.previous.until)}
    return compiled


def _route(o: EndpointObserved, model: ModelSnapshot, names: Sequence[str]) -> dict[str, Any]:
    return {
        "name": model.name,
        "names": list(names),
        **_backends(o, model),
        "info": {
            "digest": model.digest.removeprefix("sha256:"),
            "size": model.size,
            "modifiedAt": model.modified_at or EPOCH,
            "details": {name: value for name, value in model.details.items() if name != "memory"},
            "capabilities": list(model.details.get("capabilities") or ()),
        },
    }


def _backends(o: EndpointObserved, model: ModelSnapshot) -> dict[str, Any]:
    """On a cluster nothing that changes when a pod does: the gateway itself follows the EndpointSlices."""
    if o.platform == "local":
        return {"backends": list(model.addresses), "ready": model.available}
    pinned = {"ready": bool(model.digest)}
    if not model.service:
        return {"backends": [], **pinned}
    name = f"http://{model.service}.{o.endpoint.ref.namespace}.svc:{RUNNER_PORT}"
    return {"backends": [name], "service": model.service, **pinned}


def _limits(limits: Limits) -> dict[str, Any]:
    return {
        "bodyBytes": limits.body_bytes or 4194304,
        "concurrency": 64 if limits.concurrency is None else limits.concurrency,
        "queueDepth": 64 if limits.queue_depth is None else limits.queue_depth,
        "queueSeconds": duration_seconds(limits.queue_wait) if limits.queue_wait else 30,
        "requestsPerMinute": limits.requests_per_minute or 0,
        "tokensPerMinute": limits.tokens_per_minute or 0,
    }


def _conditions(
    o: EndpointObserved, config: Mapping[str, Any] | None, found: Sequence[Route], conflicts: Sequence[Conflict]
) -> list[Condition]:
    ready = _ready(o, config)
    verdicts: list[tuple[str, Verdict | None]] = [
        ("Ready", ready),
        ("ModelsReady", _models_ready(found)),
        ("NameConflict", _name_conflict(conflicts)),
        ("Reconciling", _reconciling(o, ready)),
        ("Stalled", ("True", ready[1], ready[2]) if ready[1] in GATEWAY_SPEC else None),
    ]
    return [condition(kind, *verdict, o.endpoint.generation) for kind, verdict in verdicts if verdict]


def _ready(o: EndpointObserved, config: Mapping[str, Any] | None) -> Verdict:
    gateway = o.gateway
    if o.refused and gateway.reason not in GATEWAY_SPEC | {"Forbidden", "TooLarge"}:
        return "False", "Refused", o.refused
    if gateway.reason:
        return ("True" if gateway.state == "ready" else "False"), gateway.reason, gateway.message
    if config is None:
        return "False", "ScaledToZero", "spec.replicas is 0: no gateway runs; raise it"
    if gateway.state == "ready" and gateway.config_hash == config_hash(config):
        return "True", "GatewayReady", f"the gateway serves the current configuration at {o.listen_url}"
    if gateway.state == "ready":
        return "False", "Configuring", "the gateway takes up its new configuration"
    if gateway.state == "crashed":
        return "False", "Crashed", f"the gateway ended ({gateway.restarts} restarts): {gateway.message or 'no message'}"
    if gateway.state == "none" and gateway.message:
        return "False", "NotListening", gateway.message
    return "False", "Starting", "the gateway starts"


def _reconciling(o: EndpointObserved, ready: Verdict) -> Verdict | None:
    """Present while a change of generation is under way, never for a restart or a change of keys or models."""
    changing = o.status.get("observedGeneration") != o.endpoint.generation
    still = find(o.status, "Reconciling").get("status") == "True"
    if ready[0] == "True" or ready[1] in GATEWAY_SPEC | {"ScaledToZero"} or not (changing or still):
        return None
    return "True", ready[1], ready[2]


def _models_ready(found: Sequence[Route]) -> Verdict:
    missing = [route.name for route in found if route.model is None]
    waiting = [f"{route.name} ({route.model.reason})" for route in found if route.model and not route.model.ready]
    if missing:
        return "False", "ModelNotFound", f"no such Model in this namespace: {_listed(missing)}; create it or remove it"
    if waiting:
        return "False", "ModelNotReady", f"{len(waiting)} of {len(found)} Models are not ready: {_listed(waiting)}"
    if not found:
        return "False", "NoModels", "spec.selector matches no Model of this namespace; label one"
    return "True", "AllReady", f"all Models are ready: {_listed([route.name for route in found])}"


def _name_conflict(conflicts: Sequence[Conflict]) -> Verdict | None:
    if not conflicts:
        return None
    words = [f"{item.name} stays with {item.winner} and is refused to {item.loser}" for item in conflicts]
    return "True", "NameConflict", f"{_listed(words)}; change spec.models[].aliases"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _model_status(route: Route) -> dict[str, Any]:
    model = route.model
    status: dict[str, Any] = {"name": route.name, "names": list(route.names)}
    if model is None:
        return status | {"ready": False, "available": False, "reason": "ModelNotFound"}
    status |= {"ready": model.ready, "available": model.available, "reason": model.reason or "Pending"}
    return status | ({"digest": model.digest} if model.digest else {})


def _effective(o: EndpointObserved, keys: Sequence[KeyRecord]) -> dict[str, Any]:
    spec = o.endpoint.spec
    local = o.platform == "local"
    ignored = ignored_fields("Endpoint", to_wire(spec), o.platform)
    effective = {
        "auth": _auth(spec),
        "keys": len(keys),
        "apis": _apis(o),
        "limits": _limits(spec.limits or Limits()),
        "replicas": min(wanted_replicas(o), 1) if local else wanted_replicas(o),
        "drainSeconds": DRAIN_SECONDS,
    }
    return effective | ({"ignored": ignored} if ignored else {})
