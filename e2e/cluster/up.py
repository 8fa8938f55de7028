"""`make cluster`: a Kubernetes cluster of one node on this machine, from real parts, without images from anywhere.

Idempotent: a cluster that runs is only checked; one of another configuration or checkout is replaced. Needs root.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from e2e.cluster import apt, build, components, down, network, node, pause, pki
from e2e.cluster.api import DeadlineError, wait, write_kubeconfig
from e2e.cluster.layout import (
    API_URL,
    DATA,
    KUBECONFIG,
    NODE,
    NODE_IP,
    PKI,
    STAMP,
    STATE,
    STORAGE_CLASS,
)
from e2e.cluster.servers import FIRST_SERVICE

SHAPING = ("components.py", "layout.py", "network.py", "node.py", "pause.py", "pki.py", "servers.py", "up.py")
IDENTITIES = (
    pki.ADMIN,
    pki.FRONT_PROXY,
    pki.KUBELET_CLIENT,
    pki.server(["localhost", "127.0.0.1", NODE_IP, FIRST_SERVICE]),
    # Valid for the node's address, or `kubectl logs` and `kubectl exec` fail.
    pki.Identity("kubelet", f"system:node:{NODE}", "system:nodes", hosts=(NODE, NODE_IP)),
    pki.Identity("kube-controller-manager", "system:kube-controller-manager"),
    pki.Identity("kube-scheduler", "system:kube-scheduler"),
    pki.Identity("kube-proxy", "system:kube-proxy"),
)


def stamp() -> str:
    """What a running cluster must have been started from to count as this one."""
    here = Path(__file__).parent
    parts = [build.key().encode(), *((here / name).read_bytes() for name in SHAPING)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def check_machine() -> None:
    """Exit with the fix if the cluster cannot run here."""
    if os.geteuid() != 0:
        sys.exit("cluster: make cluster needs root: it makes network devices, mounts and control groups")
    if platform.system() != "Linux":
        sys.exit("cluster: make cluster needs Linux; set E2E_KUBECONFIG to use another cluster")


def serves() -> bool:
    """Whether a cluster of this very configuration runs and every component is well."""
    try:
        same = STAMP.read_text() == stamp()
        return same and all(map(components.ready, components.NAMES)) and components.node_ready()
    except (OSError, ValueError):
        return False


def prepare() -> None:
    """Certificates, configuration files, network."""
    for folder in (STATE, DATA):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    pki.make(PKI, IDENTITIES)
    node.write_all()
    network.make()


def install_addons() -> None:
    """The StorageClass; DNS runs as a program. No class is the default: a claim that names none waits visibly."""
    storage = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    components.api().apply(f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", storage)


def start_all() -> None:
    """Start every component, each as soon as it can, and wait until pods can run."""
    for name in ("etcd", "containerd"):
        components.launch(name)
    components.start("kube-apiserver")
    for name in components.NAMES:
        components.launch(name)
    components.wait_ready("containerd")
    archive = STATE / "pause.tar"
    pause.write(build.bin_dir() / "pause", archive, platform.machine())
    components.ctr("images", "import", str(archive))
    install_addons()
    for name in components.NAMES:
        components.wait_ready(name)
    wait(f"node {NODE} is Ready", components.node_ready, 60)


def publish() -> None:
    """Put the administrator's kubeconfig into this checkout."""
    KUBECONFIG.parent.mkdir(exist_ok=True)
    write_kubeconfig(KUBECONFIG, API_URL, PKI)


def up() -> str:
    """Make sure that the cluster runs; what was done, in words. Raises DeadlineError, RuntimeError, BuildError."""
    apt.ensure(apt.CLUSTER)
    build.ensure("cluster")
    start = time.monotonic()
    if serves():
        publish()
        return "runs already"
    if STATE.exists() or DATA.exists():
        down.down()
    prepare()
    start_all()
    publish()
    STAMP.write_text(stamp())
    return f"up after {time.monotonic() - start:.0f} s"


def main() -> None:
    """Command line."""
    check_machine()
    try:
        with build.exclusive(build.cache_dir() / "cluster.lock"):
            done = up()
    except (DeadlineError, RuntimeError, build.BuildError) as error:
        sys.exit(f"cluster: {error}")
    print(f"cluster: {done}; export KUBECONFIG={KUBECONFIG}")
    if shutil.which("kubectl") is None:
        print(f"cluster: kubectl and helm are in {build.bin_dir()}")


if __name__ == "__main__":
    main()
