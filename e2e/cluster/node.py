"""Configuration files of the node's programs: containerd, CNI, kubelet, kube-proxy, CoreDNS.

Called by `up.py` before anything starts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e2e.cluster.api import write_kubeconfig
from e2e.cluster.layout import (
    API_URL,
    BRIDGE,
    CONFIG,
    CONTAINERD_SOCKET,
    DATA,
    DNS_READY_PORT,
    DOMAIN,
    NODE_IP,
    PAUSE_IMAGE,
    PKI,
    POD_CIDR,
    STATE,
)

CNI_PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")
IDENTITIES = ("admin", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy")


def containerd_config() -> str:
    """containerd for a root without CAP_SYS_RESOURCE: it may not lower an oom_score_adj, so it must not try."""
    plugins = next((path for path in CNI_PLUGINS if Path(path).is_dir()), CNI_PLUGINS[0])
    return f"""version = 2
root = "{DATA / "containerd"}"
state = "{STATE / "containerd"}"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{CONFIG / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def cni_config() -> dict[str, Any]:
    """Pods on one bridge, whose own address is the node's; `network.py` masquerades what leaves the machine."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(DATA / "cni"),
            "ranges": [[{"subnet": POD_CIDR, "gateway": NODE_IP}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {"cniVersion": "0.4.0", "name": "paddock", "plugins": [bridge]}


def kubelet_config() -> dict[str, Any]:
    """A kubelet that runs on cgroup v1 and v2, on a nearly full disk and with swap."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {
            "x509": {"clientCAFile": str(PKI / "ca.crt")},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(PKI / "kubelet.crt"),
        "tlsPrivateKeyFile": str(PKI / "kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        # The root disk of a small virtual machine may have no device that the kubelet recognises.
        "localStorageCapacityIsolation": False,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [NODE_IP],
        "clusterDomain": DOMAIN,
        "podLogsDir": str(DATA / "pod-logs"),
        "serializeImagePulls": False,
    }


def proxy_config() -> dict[str, Any]:
    """kube-proxy with iptables; it leaves the machine's conntrack limits alone."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(CONFIG / "kube-proxy.kubeconfig")},
        "mode": "iptables",
        "clusterCIDR": POD_CIDR,
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }


def corefile() -> str:
    """CoreDNS as a program on the host, so that it needs no image; pods reach it at the bridge."""
    return f""".:53 {{
    bind {NODE_IP}
    errors
    ready 127.0.0.1:{DNS_READY_PORT}
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {CONFIG / "admin.kubeconfig"}
        pods insecure
        ttl 5
    }}
    forward . /etc/resolv.conf
    cache 5
}}
"""


def write_all() -> None:
    """Write every file below `layout.CONFIG`; the certificates exist already."""
    (CONFIG / "cni").mkdir(parents=True, exist_ok=True)
    (CONFIG / "containerd.toml").write_text(containerd_config())
    (CONFIG / "Corefile").write_text(corefile())
    (CONFIG / "cni" / "10-paddock.conflist").write_text(json.dumps(cni_config(), indent=1))
    (CONFIG / "kubelet.yaml").write_text(json.dumps(kubelet_config(), indent=1))
    (CONFIG / "kube-proxy.yaml").write_text(json.dumps(proxy_config(), indent=1))
    for identity in IDENTITIES:
        write_kubeconfig(CONFIG / f"{identity}.kubeconfig", API_URL, PKI, identity)
