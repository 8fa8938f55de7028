"""Labels, annotations, names and ports of everything that Paddock creates on a cluster. They never change.

Read by the manifest builders of this package and by the cluster executor.
"""

from __future__ import annotations

from paddock_operator.core.identity import child_name, short_hash
from paddock_operator.core.plan_types import RESTART_FIELDS
from paddock_operator.core.resources import Ref

FIELD_MANAGER = "paddock"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY_VALUE = "paddock"
CHILD = "paddock.dev/child"
NAMESPACE_CHILD = "namespace"
"""Value of CHILD on what a namespace shares: it has no owner."""
COMPONENT = "paddock.dev/component"
REVISION = "paddock.dev/revision"
"""Label of runner pods: `revision_of` the configuration they started with."""
PULL_KEY = "paddock.dev/pull-key"
"""Annotation of a pull Job: the `ModelPlan.pull_key` that it answers; of a conversion: its `convert_key`."""
NODE = "paddock.dev/node"
"""Annotation of a pull or conversion Job that is pinned to a node: the node's name."""
CONFIG_HASH = "paddock.dev/config-hash"
"""Annotation: SHA-256 of the configuration that an object holds; of a pod: `hash@time` of
its last nudge, or `hash@in-force` once it told that it serves that content."""
IN_FORCE = "in-force"
CREDENTIAL_HASH = "paddock.dev/credential-sha256"
"""Annotation of an Endpoint's Secret: SHA-256 (64 hex) of the backend credential."""
ENDPOINT_ID = "paddock.dev/endpoint"
"""Annotation of an Endpoint's Secret: `namespace/name` of the Endpoint."""

PULLER, CONVERTER, RUNNER, GATEWAY, COLLECTOR = "puller", "converter", "runner", "gateway", "collector"
SECRET_TYPE = "paddock.dev/endpoint"  # noqa: S105
RUNNER_PORT = 8080
GATEWAY_PORT = 11434
CACHE_PATH = "/models"
CLAIMS_PATH = "/claims"
"""Below it a puller finds the claim of `source.claim`, by name."""
CONFIG_PATH = "/etc/paddock"
GATEWAY_ROLE = "paddock-gateway"
"""The one static ClusterRole of the chart that the operator may bind."""


def common_labels(ref: Ref, component: str) -> dict[str, str]:
    """Labels of a child of `ref`."""
    return {MANAGED_BY: MANAGED_BY_VALUE, CHILD: child_name(ref), COMPONENT: component}


def pod_selector(ref: Ref, component: str) -> dict[str, str]:
    """The immutable selector of a Deployment, Service or PodDisruptionBudget."""
    return {CHILD: child_name(ref), COMPONENT: component}


def revision_of(config: dict[str, object]) -> str:
    """8 hex digits over the restart fields of a serve configuration."""
    return short_hash({name: config[name] for name in RESTART_FIELDS})[:8]


def pull_job_name(ref: Ref, pull_key: str, node: str = "") -> str:
    """Name of the Job that answers a pull key (or a `convert_key`), anywhere or on one node; at most 63 characters."""
    identity = {"key": pull_key} | ({"node": node} if node else {})
    return f"{child_name(ref)}-{short_hash(identity)[:8]}"


def config_map_name(ref: Ref, revision: str) -> str:
    """Name of the ConfigMap with the serve configuration of one revision; at most 63 characters."""
    return f"{child_name(ref)}-{revision}"
