"""Volumes of the cluster: a directory of the machine as a `local` PersistentVolume for one claim.

`python3 -m e2e.cluster.volume NAMESPACE CLAIM SIZE`; scenarios call `prepare` and `remove`.
"""

from __future__ import annotations

import shutil
import sys

from e2e.cluster import components
from e2e.cluster.layout import NODE, STORAGE_CLASS, VOLUMES


def volume_name(namespace: str, claim: str) -> str:
    """The name of the PersistentVolume and of its directory."""
    return f"{namespace}.{claim}"


def prepare(namespace: str, claim: str, size: str) -> None:
    """Make a directory and a PersistentVolume that only the claim `namespace/claim` can bind.

    `size` is a Kubernetes quantity, which nothing enforces. The kubelet gives the directory to the pod's fsGroup.
    """
    name = volume_name(namespace, claim)
    (VOLUMES / name).mkdir(parents=True, exist_ok=True)
    node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    spec = {
        "capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": STORAGE_CLASS,
        "claimRef": {"namespace": namespace, "name": claim},
        "local": {"path": str(VOLUMES / name)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
    }
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
    components.api().apply(f"/api/v1/persistentvolumes/{name}", volume)


def remove(namespace: str, claim: str) -> None:
    """Delete the PersistentVolume and its bytes; the claim must be gone, or its pods lose their files."""
    name = volume_name(namespace, claim)
    components.api().request("DELETE", f"/api/v1/persistentvolumes/{name}")
    shutil.rmtree(VOLUMES / name, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python3 -m e2e.cluster.volume NAMESPACE CLAIM SIZE")
    prepare(*sys.argv[1:])
