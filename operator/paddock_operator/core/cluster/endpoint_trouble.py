"""Why a gateway pod, or the Deployment of gateways, does not come up. Called by `endpoint_state`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from paddock_operator.core.cluster.labels import GATEWAY
from paddock_operator.core.cluster.observed import EndpointSeen, Object
from paddock_operator.core.cluster.pods import condition_of, container, ended, ended_before, ready, waiting
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.core.cluster.trouble import Trouble, how_it_ended, not_created, pod_trouble


@dataclass(frozen=True, slots=True)
class _Seen:
    """An Endpoint's observation as `trouble.Seen`: gateways mount no cache, and Warnings tell of missing Secrets."""

    warnings: Mapping[str, tuple[str, str]]
    now: str
    settings: Settings
    claim: Object | None = None


def gateway_trouble(pods: Iterable[Object], deployment: Object | None, seen: EndpointSeen) -> Trouble | None:
    """The first trouble of the pods that are not ready (the newest first), or of the Deployment; None without any."""
    view = _Seen(seen.warnings, seen.now, seen.settings)
    found = (_of_pod(pod, view) for pod in pods if not ready(pod))
    return next((trouble for trouble in found if trouble), None) or _of_deployment(deployment)


def _of_pod(pod: Object, view: _Seen) -> Trouble | None:
    return pod_trouble(pod, GATEWAY, view, fix="make room on a node") or _crashed(container(pod, GATEWAY))


def _crashed(status: Mapping[str, object]) -> Trouble | None:
    last = ended(status) or ended_before(status)
    if not last or not (ended(status) or waiting(status).get("reason") == "CrashLoopBackOff"):
        return None
    reason = "OOMKilled" if last.get("reason") == "OOMKilled" else "CrashLooping"
    return Trouble(reason, f"the gateway ends again and again: {how_it_ended(last)}")


def _of_deployment(deployment: Object | None) -> Trouble | None:
    failure = condition_of(deployment or {}, "ReplicaFailure")
    return not_created(str(failure.get("message") or "")) if failure.get("status") == "True" else None
