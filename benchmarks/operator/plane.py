"""A control plane with stand-in kubelets: etcd, API server, controllers, scheduler, KWOK, and the operator.

Used by `run.py`. The API server's audit log tells who asked for what and when.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.apiserver import ApiServer, install_crds

from e2e.cluster import build, pki
from e2e.cluster.api import Api, wait, write_kubeconfig

HERE = Path(__file__).parent
NAMESPACE = "fleet"
OPERATOR = "paddock-operator"
CONTROLLERS = "*,-node-ipam-controller,-node-route-controller,-cloud-node-lifecycle-controller"
DIGEST = "sha256:" + "ab" * 32
DETAILS = {
    "format": "gguf", "family": "llama", "parameterSize": "134.52M", "quantization": "Q4_1", "architecture": "llama",
    "contextLength": 8192, "embeddingLength": 576, "blockCount": 30, "headCount": 9, "headCountKV": 3, "keyLength": 64,
    "valueLength": 64, "vocabSize": 49152, "capabilities": ["completion"],
}  # fmt: skip
RESULT = {
    "digest": DIGEST,
    "name": "http/fleet/model:latest",
    "size": 98362432,
    "files": [{"role": "model", "digest": "sha256:" + "cd" * 32, "size": 98362432}],
    "details": DETAILS,
}


@dataclass
class Plane:
    """Everything that runs; `stop` ends it."""

    folder: Path
    server: ApiServer = field(init=False)
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Start all but the operator, with ten nodes and a bound cache claim in the namespace of the fleet."""
        programs = build.ensure("cluster")
        self.server = ApiServer(self.folder, programs)
        self.server.start()
        install_crds(self.server)
        pki.make_certificate(self.server.pki, pki.Identity("operator", OPERATOR))
        self._controllers(programs)
        self._kwok(programs)
        self._objects()

    def _controllers(self, programs: Path) -> None:
        keys, config = self.server.pki, str(self.server.kubeconfig)
        shared = [f"--kubeconfig={config}", "--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000"]
        signing = [f"--service-account-private-key-file={keys / 'sa.key'}", f"--root-ca-file={keys / 'ca.crt'}"]
        many = [f"--concurrent-{kind}-syncs=10" for kind in ("deployment", "replicaset", "job", "service-endpoint")]
        manager = [str(programs / "kube-controller-manager"), *shared, *signing, *many, f"--controllers={CONTROLLERS}"]
        self._spawn("kube-controller-manager", [*manager, f"--cert-dir={self.folder}", "--secure-port=0"])
        self._spawn("kube-scheduler", [str(programs / "kube-scheduler"), *shared, "--secure-port=0"])

    def _kwok(self, programs: Path) -> None:
        verdict = json.dumps({"event": "result", "result": RESULT}, separators=(",", ":"))
        stages = self.folder / "stages.yaml"
        stages.write_text((HERE / "stages.yaml").read_text().replace("VERDICT", verdict))
        flags = ["--manage-all-nodes=true", f"--kubeconfig={self.server.kubeconfig}", f"--config={stages}"]
        self._spawn("kwok", [str(programs / "kwok"), *flags, "--node-lease-duration-seconds=40"])

    def _objects(self) -> None:
        api = self.server.api
        binding = {
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}],
        }
        rbac = "rbac.authorization.k8s.io/v1"
        api.apply(f"/apis/{rbac}/clusterrolebindings/bench", _object(rbac, "ClusterRoleBinding", "bench", **binding))
        api.apply(f"/api/v1/namespaces/{NAMESPACE}", _object("v1", "Namespace", NAMESPACE))
        for number in range(10):
            api.apply(f"/api/v1/nodes/node-{number}", _object("v1", "Node", f"node-{number}"))
        size, modes = {"storage": "1Ti"}, ["ReadWriteMany"]
        claim = {"accessModes": modes, "storageClassName": "", "volumeName": "bench", "resources": {"requests": size}}
        volume = {"accessModes": modes, "capacity": size, "hostPath": {"path": "/nonexistent"}}
        api.apply("/api/v1/persistentvolumes/bench", _object("v1", "PersistentVolume", "bench", spec=volume))
        path = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/paddock-cache"
        api.apply(path, _object("v1", "PersistentVolumeClaim", "paddock-cache", spec=claim))
        wait("the claim is bound", lambda: self._bound(path), 60)

    def _bound(self, path: str) -> bool:
        found = self.server.api.request("GET", path)[1]
        return bool(found.get("status", {}).get("phase") == "Bound")

    def start_operator(self) -> subprocess.Popen[bytes]:
        """Start `paddock-operator run` as an identity of its own."""
        config = write_kubeconfig(self.folder / "operator.kubeconfig", self.server.url, self.server.pki, "operator")
        settings = self.folder / "operator.yaml"
        settings.write_text(json.dumps({"metricsPort": 19090, "healthPort": 18081}))
        program = [str(Path(sys.executable).parent / "paddock-operator"), "run"]
        command = [*program, f"--config={settings}", f"--kubeconfig={config}"]
        return self._spawn("operator", command)

    def stop_operator(self) -> None:
        child = self.children.pop("operator")
        child.terminate()
        child.wait(30)

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)
        self.children[name] = child
        return child

    def stop(self) -> None:
        """End all children."""
        for child in self.children.values():
            child.kill()
            child.wait()
        self.server.stop()

    def requests(self, since: float, until: float | None = None) -> Iterator[Request]:
        """What the operator asked for between two times (Unix seconds), from the audit log."""
        with self.server.audit_log.open() as lines:
            for line in lines:
                if f'"{OPERATOR}"' not in line:
                    continue
                with contextlib.suppress(ValueError, KeyError):
                    found = Request.parse(json.loads(line))
                    if since <= found.at and (until is None or found.at < until):
                        yield found


@dataclass(frozen=True)
class Request:
    """One line of the audit log; `at` is when it was answered, `code` the HTTP status."""

    verb: str
    resource: str
    name: str
    subresource: str
    code: int
    at: float

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> Request:
        target = event["objectRef"]
        return cls(
            event["verb"],
            target["resource"],
            target.get("name", ""),
            target.get("subresource", ""),
            event["responseStatus"]["code"],
            seconds(event["stageTimestamp"]),
        )

    @property
    def writes(self) -> bool:
        """Whether it changes anything; Leases do not count."""
        return self.verb in ("create", "update", "patch", "delete") and self.resource != "leases"


def seconds(text: str) -> float:
    """Unix seconds of an audit timestamp."""
    return datetime.fromisoformat(text).timestamp()


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _object(version: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}


@contextlib.contextmanager
def plane(folder: Path) -> Iterator[Plane]:
    """A running plane."""
    running = Plane(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def model_api(running: Plane) -> Api:
    """The administrator's way to the API server."""
    return running.server.api


def now() -> float:
    return time.time()
