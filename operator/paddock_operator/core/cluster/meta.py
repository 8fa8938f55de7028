"""What every manifest of a cluster shares: metadata, owner references, and the pieces of hardened pods.

Called by the manifest builders of this package. Pure: equal input gives equal manifests, for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paddock_operator.core.cluster.settings import Images
from paddock_operator.core.identity import short_hash

USER = 65532
TEMPLATE_HASH = "paddock.dev/template-hash"
"""Annotation of a Deployment: hash of the pod template that was planned, because the API server adds defaults to it."""
POD_SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
FORGET_SECONDS = 5
"""Between a pod's end and SIGTERM: endpoints and load balancers forget the pod first."""
GRACE_SECONDS = 15
"""Beyond the time to drain: `FORGET_SECONDS`, and what the program needs to end."""
TMP_VOLUME: Mapping[str, Any] = {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}
TMP_MOUNT: Mapping[str, Any] = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108


def metadata(
    name: str,
    namespace: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
    owner: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Metadata of a child. `owner` is the whole document of its Model or Endpoint, None for objects of a namespace."""
    made: dict[str, Any] = {"name": name, "namespace": namespace, "labels": dict(labels)}
    if annotations:
        made["annotations"] = dict(annotations)
    if owner is not None:
        made["ownerReferences"] = [owner_reference(owner)]
    return made


def owner_reference(document: Mapping[str, Any]) -> dict[str, Any]:
    """The controller reference to a Model or Endpoint; it never blocks the deletion of its owner."""
    return {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "name": document["metadata"]["name"],
        "uid": document["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }


def container(
    name: str,
    image: str,
    images: Images,
    args: Sequence[str],
    resources: Mapping[str, Any],
    *,
    env: Iterable[tuple[str, str]] = (),
    mounts: Iterable[Mapping[str, Any]] = (),
    **more: Any,
) -> dict[str, Any]:
    """One hardened container with /tmp and `mounts`. `more`: further fields (ports, probes, lifecycle)."""
    made: dict[str, Any] = {
        "name": name,
        "image": image,
        "imagePullPolicy": images.pull_policy,
        "args": list(args),
        "resources": dict(resources),
        "securityContext": dict(CONTAINER_SECURITY),
        "volumeMounts": [dict(TMP_MOUNT), *(dict(mount) for mount in mounts)],
        **more,
    }
    if pairs := [{"name": key, "value": value} for key, value in env]:
        made["env"] = pairs
    return made


def pod_spec(
    service_account: str,
    images: Images,
    containers: Iterable[Mapping[str, Any]],
    volumes: Iterable[Mapping[str, Any]] = (),
    *,
    token: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """A hardened pod spec with an emptyDir `tmp`; `token`: mount the ServiceAccount's token. `more`: further fields."""
    made: dict[str, Any] = {
        "serviceAccountName": service_account,
        "automountServiceAccountToken": token,
        "enableServiceLinks": False,
        "securityContext": dict(POD_SECURITY),
        "containers": [dict(item) for item in containers],
        "volumes": [dict(TMP_VOLUME), *(dict(volume) for volume in volumes)],
        **more,
    }
    if images.pull_secrets:
        made["imagePullSecrets"] = [{"name": name} for name in images.pull_secrets]
    return made


def cache_volume(claim_name: str, *, read_only: bool) -> dict[str, Any]:
    """The volume `models`: the namespace's cache claim."""
    claim: dict[str, Any] = {"claimName": claim_name}
    return {"name": "models", "persistentVolumeClaim": claim | ({"readOnly": True} if read_only else {})}


def cache_mount(path: str, *, read_only: bool) -> dict[str, Any]:
    """The mount of the volume `models`."""
    return {"name": "models", "mountPath": path} | ({"readOnly": True} if read_only else {})


def http_probe(path: str, port: str, period: int, failures: int, timeout: int = 1) -> dict[str, Any]:
    """A probe over HTTP; times in seconds."""
    get = {"path": path, "port": port}
    return {"httpGet": get, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": timeout}


def serving(port: str, start_seconds: int, scheme: str = "HTTP") -> dict[str, Any]:
    """Probes and the end of a container that serves HTTP for as long as its pod lives; for `container(**more)`."""
    probes = {
        "startupProbe": http_probe("/healthz", port, 1, start_seconds),
        "readinessProbe": http_probe("/readyz", port, 2, 2, timeout=2),
        "livenessProbe": http_probe("/healthz", port, 10, 6, timeout=5),
    }
    if scheme != "HTTP":
        probes = {name: {**made, "httpGet": {**made["httpGet"], "scheme": scheme}} for name, made in probes.items()}
    return {
        **probes,
        "lifecycle": {"preStop": {"sleep": {"seconds": FORGET_SECONDS}}},
        # a program that cannot even start says why in its last log line
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def template_hash(template: Mapping[str, Any]) -> str:
    """16 hex digits over a planned pod template, for the annotation `TEMPLATE_HASH`."""
    return short_hash(template)
