"""What should exist on the cluster for one Endpoint, and what its status says: the pure plan.

Called by the cluster executor for each ring of an Endpoint's key. Routes, keys and the gateway configuration are those
of `core.plan_endpoint`, which one machine shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from paddock_operator.core.cluster.endpoint_front import fronts
from paddock_operator.core.cluster.endpoint_objects import (
    disruption_budget,
    identity,
    reports,
    secret,
    service,
    url,
)
from paddock_operator.core.cluster.endpoint_state import config_fault, observe_gateways
from paddock_operator.core.cluster.gateway_pod import asked, gateway_deployment
from paddock_operator.core.cluster.network import gateway_policy
from paddock_operator.core.cluster.observed import EndpointSeen
from paddock_operator.core.cluster.pods import alive
from paddock_operator.core.cluster.rolls import WAIT_SECONDS, Roll, roll
from paddock_operator.core.cluster.trouble import grace_left
from paddock_operator.core.cluster.types import ClusterPlan, Manifest
from paddock_operator.core.cluster.verdict import printable
from paddock_operator.core.conditions import MAX_MESSAGE
from paddock_operator.core.identity import child_name
from paddock_operator.core.observed import EndpointObserved, GatewayObserved
from paddock_operator.core.plan_endpoint import gateway_config, plan_endpoint, wanted_replicas
from paddock_operator.core.resources import Endpoint, parse


def plan_cluster_endpoint(seen: EndpointSeen) -> ClusterPlan:
    """Children to apply and keep, the status, and when to look again. Raises ValueError if it is not an Endpoint."""
    endpoint = parse(seen.endpoint)
    if not isinstance(endpoint, Endpoint):
        raise ValueError(f"{seen.endpoint.get('kind')} is not an Endpoint")
    observed = _observed(seen, endpoint)
    config = gateway_config(observed)
    rolled = _roll(seen, endpoint, wanted_replicas(observed))
    gateways = observe_gateways(seen, endpoint, config, rolled[0], rolled[1].apply is None)
    plan = plan_endpoint(replace(observed, gateway=gateways.observed))
    apply, keep = _children(seen, endpoint, config, rolled[0], rolled[1])
    grace = grace_left(alive(seen.children.pods), seen.now)
    waits = [gateways.wait, grace, WAIT_SECONDS if rolled[1].apply is None else None]
    return ClusterPlan(
        apply=tuple(apply),
        keep=tuple(keep),
        status=plan.status,
        notes=plan.notes,
        rolls=rolled[1].rolls,
        requeue_seconds=min((time for time in waits if time is not None), default=None),
    )


def _observed(seen: EndpointSeen, endpoint: Endpoint) -> EndpointObserved:
    return EndpointObserved(
        endpoint=endpoint,
        status=seen.endpoint.get("status") or {},
        models=seen.models,
        gateway=GatewayObserved(),
        keys=seen.keys,
        backend_credential=seen.credential,
        listen_url=url(endpoint),
        now=seen.now,
        platform="cluster",
        refused=printable(seen.refused, MAX_MESSAGE),
    )


def _roll(seen: EndpointSeen, endpoint: Endpoint, replicas: int) -> tuple[Manifest, Roll]:
    """The Deployment that is wanted, with its annotations, and whether it is applied now."""
    planned = gateway_deployment(seen, endpoint, replicas)
    wanted = roll(planned, None, asked(endpoint), True).apply or planned
    return wanted, roll(planned, next(iter(seen.children.deployments), None), asked(endpoint), seen.may_roll)


def _children(
    seen: EndpointSeen, endpoint: Endpoint, config: Mapping[str, Any], wanted: Manifest, rolled: Roll
) -> tuple[list[Manifest], list[tuple[str, str]]]:
    """What is applied, the Deployment after what its pods mount; and what stays as it is."""
    apply: list[Manifest] = [*identity(seen, endpoint), reports(seen, endpoint)]
    keep: list[tuple[str, str]] = []
    writable = config_fault(seen, endpoint, config) is None
    if writable:
        apply.append(secret(seen, endpoint, config))
    else:
        keep.append(("Secret", child_name(endpoint.ref)))
    apply += [gateway_policy(seen, endpoint), service(seen, endpoint)]
    if rolled.apply is None:
        keep.append(("Deployment", child_name(endpoint.ref)))
    elif writable or seen.children.deployments:
        # without a Secret a first gateway could not even start
        apply.append(rolled.apply)
    if wanted["spec"]["replicas"] > 1:
        apply.append(disruption_budget(seen, endpoint))
    return apply + fronts(seen, endpoint), keep
