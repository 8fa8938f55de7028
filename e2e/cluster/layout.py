"""Where everything of the cluster on this machine is, and its fixed addresses.

Used by all modules of `make cluster`. There is one cluster per machine, so the places do not depend on the checkout;
only the kubeconfig is copied to `.cluster/` of the checkout.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KUBECONFIG = ROOT / ".cluster" / "kubeconfig"

STATE = Path("/run/paddock-cluster")
DATA = Path("/var/lib/paddock-cluster")
PIDS = STATE / "pids"
CONTAINERD_SOCKET = STATE / "containerd.sock"
PKI = DATA / "pki"
CONFIG = DATA / "config"
LOGS = DATA / "logs"
VOLUMES = DATA / "volumes"
STAMP = STATE / "stamp"
SYSCTLS = STATE / "sysctls.json"
# The kubelet writes these whatever its root directory is.
FIXED = (Path("/var/log/containers"), Path("/var/lib/kubelet/device-plugins"))

NODE = "paddock"
BRIDGE = "paddock0"
NODE_IP = "10.244.0.1"
POD_CIDR = "10.244.0.0/24"
API_PORT = 6443
API_URL = f"https://{NODE_IP}:{API_PORT}"
ETCD_PORT = 12379
ETCD_PEER_PORT = 12380
DNS_READY_PORT = 18181
DOMAIN = "cluster.local"
STORAGE_CLASS = "paddock-local"
PAUSE_IMAGE = "localhost/pause:1"
