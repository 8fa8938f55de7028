"""What the Models and Endpoints of a namespace share: identities, NetworkPolicies, the cache claim and its collector.

Called by the cluster executor for each ring of a namespace's key. These objects have no owner; they go when the last
Model and Endpoint and their pods are gone. The claim is made once, then it is the user's.
"""

from __future__ import annotations

from typing import Any

from paddock_operator.core.cluster.collect import plan_collection
from paddock_operator.core.cluster.labels import (
    CHILD,
    COMPONENT,
    CONVERTER,
    MANAGED_BY,
    MANAGED_BY_VALUE,
    NAMESPACE_CHILD,
    PULLER,
    RUNNER,
)
from paddock_operator.core.cluster.meta import metadata
from paddock_operator.core.cluster.network import namespace_policies
from paddock_operator.core.cluster.observed import NamespaceSeen
from paddock_operator.core.cluster.pods import FINISHED, label, name, phase
from paddock_operator.core.cluster.types import ClusterPlan, Manifest

LABELS = {MANAGED_BY: MANAGED_BY_VALUE, CHILD: NAMESPACE_CHILD}
"""Labels of objects of a namespace; no `child_name` is `namespace`, those end with a hash."""
CACHE = "cache"
DRAIN_LOOK_SECONDS = 5.0


def plan_namespace(seen: NamespaceSeen) -> ClusterPlan:
    """Children of a namespace to apply and keep, and when to look again; the status is always None."""
    if not (seen.models or seen.endpoints):
        return _leave(seen)
    collection = plan_collection(seen, LABELS)
    apply: list[Manifest] = [_account(seen, component) for component in (PULLER, RUNNER)]
    apply += namespace_policies(seen.namespace, LABELS, seen.settings)
    if seen.claim is None:
        apply.append(_claim(seen))
    apply += collection.start
    keep = [("PersistentVolumeClaim", seen.settings.cache.claim_name), *(("Job", job) for job in collection.keep)]
    return ClusterPlan(tuple(apply), tuple(keep), notes=collection.notes, requeue_seconds=collection.wait)


def _leave(seen: NamespaceSeen) -> ClusterPlan:
    """Nothing is wanted any more; what guards pods stays as long as some of them still drain."""
    ours = (pod for pod in seen.pods if label(pod, COMPONENT) in (PULLER, CONVERTER, RUNNER))
    draining = [pod for pod in ours if phase(pod) not in FINISHED]
    if not draining:
        return ClusterPlan(())
    kept = tuple((str(item["kind"]), name(item)) for item in seen.children.all())
    return ClusterPlan((), kept, requeue_seconds=DRAIN_LOOK_SECONDS)


def _account(seen: NamespaceSeen, component: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(f"paddock-{component}", seen.namespace, {**LABELS, COMPONENT: component}),
        "automountServiceAccountToken": False,
    }


def _claim(seen: NamespaceSeen) -> dict[str, Any]:
    cache = seen.settings.cache
    spec: dict[str, Any] = {
        "accessModes": [cache.access_mode],
        "resources": {"requests": {"storage": cache.size}},
    }
    if cache.storage_class:
        spec["storageClassName"] = cache.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(cache.claim_name, seen.namespace, {**LABELS, COMPONENT: CACHE}),
        "spec": spec,
    }
