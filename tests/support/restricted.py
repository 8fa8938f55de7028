"""Pod Security `restricted` (and what this project wants beyond it), as a check of a pod spec.

Called by tests of everything that makes pods.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = ("RuntimeDefault", "Localhost")


def violations(spec: dict[str, Any]) -> list[str]:
    """What keeps a pod spec from being restricted with a read-only root; empty if nothing does."""
    pod = spec.get("securityContext") or {}
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    for volume in spec.get("volumes") or ():
        found += [f"volume {volume['name']} is a {kind}" for kind in volume if kind != "name" and kind not in VOLUMES]
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind) or ():
            found += [f"container {container['name']}: {problem}" for problem in _container(container, pod)]
    return found


def _container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext") or {}
    merged = {**pod, **own}
    if merged.get("runAsNonRoot") is not True or merged.get("runAsUser") == 0:
        yield "may run as root"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "may gain privileges"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield f"capabilities are {own.get('capabilities')}"
    if (merged.get("seccompProfile") or {}).get("type") not in SECCOMP:
        yield "has no seccomp profile"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write its root"
    if any("hostPort" in port for port in container.get("ports") or ()):
        yield "has a host port"
