"""The programs of the cluster, each by name: start, kill, and whether it is ready.

Called by `up.py` and `down.py`, and by scenarios that break something:
`components.kill("kube-apiserver")`, `components.start("kube-apiserver")`, the same for every name of `NAMES`, and
`components.restart_container(pod_uid)`.
"""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable
from typing import Any

from e2e.cluster import build, process
from e2e.cluster.api import Api, DeadlineError, wait
from e2e.cluster.layout import (
    API_PORT,
    API_URL,
    CONFIG,
    CONTAINERD_SOCKET,
    DATA,
    DNS_READY_PORT,
    ETCD_PEER_PORT,
    ETCD_PORT,
    NODE,
    NODE_IP,
    PKI,
)
from e2e.cluster.servers import ApiServerOptions, apiserver_command, etcd_command

NAMES = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
)
START_SECONDS = 90.0


def api() -> Api:
    """The cluster's API server as the administrator."""
    return Api(API_URL, PKI)


def ctr(*args: str, check: bool = True) -> str:
    """Run containerd's client in the namespace of Kubernetes; its output."""
    command = ["ctr", "--address", str(CONTAINERD_SOCKET), "--namespace", "k8s.io", *args]
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout


def command(name: str) -> list[str]:
    """The command line of a component. Raises KeyError for an unknown name."""
    programs = build.bin_dir()
    etcd_url = f"http://127.0.0.1:{ETCD_PORT}"
    server = ApiServerOptions(programs, PKI, DATA / "apiserver", etcd_url, NODE_IP, API_PORT)
    commands: dict[str, Callable[[], list[str]]] = {
        "etcd": lambda: etcd_command(programs, DATA / "etcd", ETCD_PORT, ETCD_PEER_PORT),
        "containerd": lambda: ["containerd", f"--config={CONFIG / 'containerd.toml'}"],
        "kube-apiserver": lambda: apiserver_command(server),
        "kube-controller-manager": lambda: [str(programs / name), *controller_flags()],
        "kube-scheduler": lambda: [str(programs / name), *client_flags(name)],
        "kubelet": lambda: [str(programs / name), *kubelet_flags()],
        "kube-proxy": lambda: [
            str(programs / name),
            f"--config={CONFIG / 'kube-proxy.yaml'}",
            f"--hostname-override={NODE}",
        ],
        "coredns": lambda: [str(programs / name), "-conf", str(CONFIG / "Corefile")],
    }
    return commands[name]()


def client_flags(name: str) -> list[str]:
    """What scheduler and controller manager share; there is only one of each, so nobody is elected."""
    kubeconfig = CONFIG / f"{name}.kubeconfig"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]


def controller_flags() -> list[str]:
    """The controller manager signs tokens and certificates with the cluster's keys."""
    return [
        *client_flags("kube-controller-manager"),
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={PKI / 'sa.key'}",
        f"--root-ca-file={PKI / 'ca.crt'}",
        f"--cluster-signing-cert-file={PKI / 'ca.crt'}",
        f"--cluster-signing-key-file={PKI / 'ca.key'}",
    ]


def kubelet_flags() -> list[str]:
    """What the kubelet's configuration file cannot say."""
    return [
        f"--config={CONFIG / 'kubelet.yaml'}",
        f"--kubeconfig={CONFIG / 'kubelet.kubeconfig'}",
        f"--root-dir={DATA / 'kubelet'}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_IP}",
    ]


def healthy(port: int, path: str = "/healthz") -> bool:
    """Whether a program says on loopback that it is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    finally:
        connection.close()


def node() -> dict[str, Any]:
    """The Node object, {} before the kubelet has registered."""
    status, found = api().request("GET", f"/api/v1/nodes/{NODE}")
    return found if status == 200 else {}


def node_ready() -> bool:
    """Whether the Node is Ready and takes pods."""
    found = node()
    conditions = found.get("status", {}).get("conditions", [])
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and not found.get("spec", {}).get("taints")


def ready(name: str) -> bool:
    """Whether a component does its work now. Raises OSError or HTTPException when it does not answer."""
    checks: dict[str, Callable[[], bool]] = {
        "etcd": lambda: healthy(ETCD_PORT, "/health"),
        "containerd": lambda: bool(ctr("version", check=False)),
        "kube-apiserver": lambda: api().ready(),
        "kubelet": lambda: healthy(10248),
        "kube-proxy": lambda: healthy(10256),
        "coredns": lambda: healthy(DNS_READY_PORT, "/ready"),
    }
    return process.pid_of(name) is not None and checks.get(name, lambda: True)()


def launch(name: str) -> None:
    """Start a component unless it runs; do not wait."""
    (DATA / "apiserver").mkdir(parents=True, exist_ok=True)
    process.start(name, command(name))


def wait_ready(name: str) -> None:
    """Wait until a component is ready. Raises DeadlineError with the end of its log."""
    try:
        wait(f"{name} is ready", lambda: ready(name), START_SECONDS)
    except DeadlineError as error:
        raise DeadlineError(f"{error}\nthe end of {process.log_of(name)}:\n{process.tail(name)}") from error


def start(name: str) -> None:
    """Start a component unless it runs, and wait until it is ready. Raises KeyError, DeadlineError."""
    launch(name)
    wait_ready(name)


def kill(name: str) -> None:
    """SIGKILL to a component; returns when it is gone. Raises KeyError for an unknown name."""
    command(name)
    process.kill(name)


def restart_container(pod_uid: str) -> None:
    """Kill the containers of a pod, not its sandbox; the kubelet starts them anew. Fails if none runs."""
    labels = f'labels."io.kubernetes.pod.uid"=={pod_uid},labels."io.cri-containerd.kind"==container'
    containers = ctr("containers", "list", "--quiet", labels).split()
    running = [line.split()[0] for line in ctr("tasks", "list").splitlines() if line.endswith("RUNNING")]
    victims = [container for container in containers if container in running]
    assert victims, f"no container of pod {pod_uid} runs"
    for container in victims:
        ctr("tasks", "kill", "--signal", "SIGKILL", container)
