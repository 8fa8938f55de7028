"""Models of every source as the scenarios make and look at them: documents, pins, Jobs, the bytes of a cache."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.support.gguf_maker import make_gguf

from e2e.cluster import layout, volume
from e2e.conftest import address
from e2e.support import objects
from e2e.support.cluster import Cluster
from e2e.support.load import Answer, chat

SERVING = {"contextLength": 256, "slots": 1}


def sourced(name: str, source: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A Model so small that several of them, and what replaces them, fit on one small node."""
    document = objects.model(name, **{"serving": SERVING, "resources": {"cpu": "100m"}, **spec})
    document["spec"]["source"] = source
    return document


def other(folder: Path, seed: int = 2) -> bytes:
    """Another model than the tiny one, of F32 as it is."""
    return make_gguf(folder / f"{seed}.gguf", seed=seed).read_bytes()


def resolved(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """status.resolved, {} before there is one."""
    found: dict[str, Any] = ((cluster.get(namespace, "model", name) or {}).get("status") or {}).get("resolved") or {}
    return found


def again(cluster: Cluster, namespace: str, name: str, word: str) -> None:
    """Ask for a new resolution, as a user does."""
    cluster.patch(namespace, "model", name, {"spec": {"source": {"resolve": word}}})


def jobs(cluster: Cluster, namespace: str, component: str) -> list[dict[str, Any]]:
    return cluster.all_of(namespace, "jobs", f"paddock.dev/component={component}")


def succeeded(cluster: Cluster, namespace: str, component: str) -> set[str]:
    """Uids of the Jobs that ended well."""
    done = [job for job in jobs(cluster, namespace, component) if (job.get("status") or {}).get("succeeded")]
    return {job["metadata"]["uid"] for job in done}


def answered(cluster: Cluster, namespace: str, key: str, model: str) -> Answer:
    """A whole answer of the Endpoint `main`. Raises ValueError while there is none."""
    endpoint = cluster.get(namespace, "endpoint", "main") or {}
    answer = chat(address(cluster, endpoint), key, model, tokens=4)
    if answer.error:
        raise ValueError(answer.error)
    return answer


def volume_folder(namespace: str, claim: str = "paddock-cache") -> Path:
    """The directory of this machine behind a claim."""
    return layout.VOLUMES / volume.volume_name(namespace, claim)


def blobs(namespace: str) -> set[str]:
    """Names of the blobs in a namespace's cache."""
    return {path.name for path in (volume_folder(namespace) / "blobs").iterdir()}


def claim(name: str) -> dict[str, Any]:
    """A claim for a volume that `volume.prepare` made."""
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": layout.STORAGE_CLASS,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def in_memory(path: Path) -> int:
    """Bytes of a file that the page cache holds: what somebody read and nobody dropped."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout)
