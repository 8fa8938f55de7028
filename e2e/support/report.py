"""What a failing scenario leaves behind: objects, events and logs of the namespaces that it touched.

Called by the hook of e2e/conftest.py; writes below `.cluster/failures/`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

from e2e.support.cluster import ROOT, Cluster

KINDS = (
    "models.paddock.dev,endpoints.paddock.dev,pods,jobs,deployments,replicasets,services,endpointslices,"
    "persistentvolumeclaims,configmaps,networkpolicies,events"
)


def collect(cluster: Cluster, test: str) -> Path:
    """Write everything about the touched namespaces and the operator's; returns the folder."""
    folder = ROOT / ".cluster" / "failures" / "".join(letter if letter.isalnum() else "-" for letter in test)
    folder.mkdir(parents=True, exist_ok=True)
    for namespace in sorted(cluster.touched):
        with contextlib.suppress(subprocess.SubprocessError, AssertionError, OSError, ValueError):
            _namespace(cluster, namespace, folder)
    return folder


def _namespace(cluster: Cluster, namespace: str, folder: Path) -> None:
    found = cluster.kubectl("get", KINDS, "-n", namespace, "-o", "yaml", check=False)
    (folder / f"{namespace}.yaml").write_text(found.stdout + found.stderr)
    for pod in json.loads(cluster.kubectl("get", "pods", "-n", namespace, "-o", "json").stdout)["items"]:
        name = pod["metadata"]["name"]
        for flag, suffix in ((), "log"), (("--previous",), "previous.log"):
            log = cluster.kubectl("logs", name, "-n", namespace, "--tail=500", *flag, check=False)
            if log.stdout:
                (folder / f"{namespace}-{name}.{suffix}").write_text(log.stdout)
