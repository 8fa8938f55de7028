"""What the gateways of an Endpoint are doing, read from pods, the Deployment and the gateways' own reports.

Called by `endpoint`. A gateway tells which configuration is in force by a key of its own in a ConfigMap. A change of
keys, models or credentials is taken up within moments and does not make an Endpoint unready; a change of its spec does
until every gateway has it, and so does a gateway that does not take up a configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddock_operator.core.cluster.endpoint_fields import Fault, spec_fault
from paddock_operator.core.cluster.endpoint_objects import MAX_SECRET_BYTES, reports_name, url
from paddock_operator.core.cluster.endpoint_trouble import gateway_trouble
from paddock_operator.core.cluster.labels import COMPONENT, CONFIG_HASH, GATEWAY
from paddock_operator.core.cluster.meta import TEMPLATE_HASH
from paddock_operator.core.cluster.observed import EndpointSeen, Object
from paddock_operator.core.cluster.pods import (
    age,
    alive,
    annotation,
    condition_of,
    config_changed_at,
    created,
    label,
    name,
    ready,
)
from paddock_operator.core.cluster.rolls import rolled_out
from paddock_operator.core.conditions import find
from paddock_operator.core.identity import canonical_json, config_hash
from paddock_operator.core.observed import GatewayObserved
from paddock_operator.core.resources import Endpoint

TAKE_UP_SECONDS = 30.0
SHOWN_PODS = 5
_ACCOUNT = re.compile(r'User "system:serviceaccount:([a-z0-9-]+):([a-z0-9.-]+)"')
_USER = re.compile(r'User "([A-Za-z0-9@._:/-]+)"')


@dataclass(frozen=True, slots=True)
class Gateways:
    """`observed` is for `plan_endpoint`; `wait`: seconds after which silence means something, None if never."""

    observed: GatewayObserved
    wait: float | None = None


def config_fault(seen: EndpointSeen, endpoint: Endpoint, config: Mapping[str, Any]) -> Fault | None:
    """Why the Secret cannot be written, None if it can."""
    if seen.keys_problem:
        return "Forbidden", _forbidden(seen, endpoint)
    size = len(canonical_json(config))
    if size > MAX_SECRET_BYTES:
        words = f"{len(config['keys'])} API keys and {len(config['models'])} Models make {size} bytes"
        return "TooLarge", f"{words} of gateway configuration, at most {MAX_SECRET_BYTES} fit; use several namespaces"
    return None


def _forbidden(seen: EndpointSeen, endpoint: Endpoint) -> str:
    namespace = endpoint.ref.namespace
    command = (
        f"kubectl create rolebinding paddock-secrets --namespace {namespace} --clusterrole=paddock-secrets "
        f"{_subject(seen)}"
    )
    return f"the Secrets of namespace {namespace} cannot be read; run: {command} ({seen.keys_problem})"


def _subject(seen: EndpointSeen) -> str:
    """Whom to give the right: the API server's refusal names the account that asked."""
    if account := _ACCOUNT.search(seen.keys_problem):
        return f"--serviceaccount={account[1]}:{account[2]}"
    if user := _USER.search(seen.keys_problem):
        return f"--user={user[1]}"
    return f"--serviceaccount={seen.settings.namespace}:paddock-operator"


def observe_gateways(
    seen: EndpointSeen, endpoint: Endpoint, config: Mapping[str, Any], planned: Object, held: bool
) -> Gateways:
    """What the plan may say of the gateways. `planned` is the wanted Deployment, `held`: it waits for its turn."""
    pods = alive(pod for pod in seen.children.pods if label(pod, COMPONENT) == GATEWAY)
    able = [pod for pod in pods if ready(pod)]
    counts = GatewayObserved("starting" if pods else "none", replicas=len(pods), ready_replicas=len(able))
    fault = spec_fault(endpoint.spec) or config_fault(seen, endpoint, config)
    if fault:
        return Gateways(replace(counts, reason=fault[0], message=fault[1]))
    if not planned["spec"]["replicas"]:
        return Gateways(counts)
    deployment = next(iter(seen.children.deployments), None)
    trouble = gateway_trouble(pods, deployment, seen)
    problem = (trouble.reason, trouble.message) if trouble else None
    if not able:
        return Gateways(_with(counts, problem))
    if not _settled(seen, endpoint) and not (held or _rolled_out(deployment, planned)):
        return Gateways(_with(counts, problem or ("Configuring", "gateways of the new specification replace the old")))
    return _answering(seen, endpoint, config, able, replace(counts, state="ready"), problem)


def _answering(
    seen: EndpointSeen,
    endpoint: Endpoint,
    config: Mapping[str, Any],
    able: Sequence[Object],
    counts: GatewayObserved,
    problem: Fault | None,
) -> Gateways:
    wanted = config_hash(config)
    late = _lateness(seen, endpoint, wanted, able)
    overdue = [pod for pod, seconds in late.items() if seconds > TAKE_UP_SECONDS]
    if late and (overdue or not _settled(seen, endpoint)):
        names = ", ".join(sorted(overdue or late)[:SHOWN_PODS])
        words = f"{len(late)} of {len(able)} gateways have not taken up the current configuration: {names}"
        return Gateways(replace(counts, state="starting", reason="Configuring", message=words), _wait(late, overdue))
    return Gateways(_flawed(seen, endpoint, replace(counts, config_hash=wanted), problem), _wait(late, overdue))


def _wait(late: Mapping[str, float], overdue: Sequence[str]) -> float | None:
    """A report that comes rings by itself; one that does not come has to be looked for."""
    return None if overdue or not late else TAKE_UP_SECONDS - max(late.values()) + 1


def _with(counts: GatewayObserved, problem: Fault | None) -> GatewayObserved:
    return replace(counts, state="starting", reason=problem[0], message=problem[1]) if problem else counts


def _flawed(seen: EndpointSeen, endpoint: Endpoint, gateway: GatewayObserved, problem: Fault | None) -> GatewayObserved:
    """Gateways that serve, and what is wrong besides."""
    flaws = [f"another one cannot run ({problem[0]}): {problem[1]}"] if problem else []
    if endpoint.spec.http_route and not seen.has_http_route:
        flaws.append("spec.httpRoute has no effect: the cluster does not know HTTPRoute (gateway.networking.k8s.io/v1)")
    if not flaws:
        return gateway
    words = f"{gateway.ready_replicas} of {gateway.replicas} gateways serve at {url(endpoint)}; {'; '.join(flaws)}"
    return replace(gateway, reason="Degraded", message=words)


def _settled(seen: EndpointSeen, endpoint: Endpoint) -> bool:
    """Whether this very specification was in force already."""
    status = seen.endpoint.get("status") or {}
    return status.get("observedGeneration") == endpoint.generation and find(status, "Ready").get("status") == "True"


def _rolled_out(live: Object | None, planned: Object) -> bool:
    """Whether all gateways that the Deployment counts are of the planned template."""
    if live is None or annotation(live, TEMPLATE_HASH) != annotation(planned, TEMPLATE_HASH):
        return False
    updated = (live.get("status") or {}).get("updatedReplicas") or 0
    return rolled_out(live) and bool(updated >= planned["spec"]["replicas"])


def _lateness(seen: EndpointSeen, endpoint: Endpoint, wanted: str, pods: Iterable[Object]) -> dict[str, float]:
    """Seconds for which ready pods could have had the wanted configuration and did not report it, by name."""
    reported = _reports(seen, endpoint)
    since = _changed_at(seen, wanted)
    behind = [pod for pod in pods if reported.get(name(pod)) != wanted]
    return {name(pod): age(max(since, _ready_since(pod)), seen.now) for pod in behind}


def _changed_at(seen: EndpointSeen, wanted: str) -> str:
    """When the wanted configuration was written; now if this plan writes it."""
    secret = next(iter(seen.children.secrets), None)
    if secret is None or annotation(secret, CONFIG_HASH) != wanted:
        return seen.now
    return config_changed_at(secret) or created(secret)


def _ready_since(pod: Object) -> str:
    return str(condition_of(pod, "Ready").get("lastTransitionTime") or created(pod))


def _reports(seen: EndpointSeen, endpoint: Endpoint) -> dict[str, str]:
    """Configuration hashes by pod, as the gateways wrote them; anything unreadable is no report."""
    found = (item for item in seen.children.config_maps if name(item) == reports_name(endpoint))
    data = (next(found, None) or {}).get("data") or {}
    return {pod: value for pod, text in data.items() if (value := _config_in(text))}


def _config_in(text: str) -> str:
    try:
        report = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return ""
    return str(report.get("config") or "") if isinstance(report, dict) else ""
