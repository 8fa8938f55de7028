"""Command lines of etcd and the API server, for the light fixture and for the whole cluster.

Called by `components.py` and by the fixture of `tests/support/apiserver.py`.
"""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from pathlib import Path

SERVICE_CIDR = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"
# Every request once, when it is answered, without bodies: enough to count who wrote what.
AUDIT_POLICY = (
    '{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], '
    '"rules": [{"level": "Metadata"}]}\n'
)


@dataclass(frozen=True)
class ApiServerOptions:
    """What differs between one API server and another: where its files are, where it listens, whom it can reach."""

    programs: Path
    pki: Path
    folder: Path
    etcd_url: str
    address: str
    port: int


def free_port() -> int:
    """A loopback TCP port that nobody listens on, below those of Services and those that the kernel hands out."""
    for port in random.sample(range(20000, 30000), 50):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free TCP port between 20000 and 30000")


def etcd_command(programs: Path, data: Path, port: int, peer_port: int) -> list[str]:
    """etcd on loopback without TLS; not waiting for the disk, since a crash of the machine ends the test anyway."""
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        str(programs / "etcd"),
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_command(options: ApiServerOptions) -> list[str]:
    """The API server with RBAC, Pod Security admission (on by default), aggregation and an audit log."""
    pki, folder = options.pki, options.folder
    policy = folder / "audit-policy.yaml"
    policy.write_text(AUDIT_POLICY)
    return [
        str(options.programs / "kube-apiserver"),
        f"--etcd-servers={options.etcd_url}",
        f"--bind-address={options.address}",
        f"--advertise-address={options.address}",
        f"--secure-port={options.port}",
        f"--cert-dir={folder}",
        *certificate_flags(pki),
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--service-account-issuer={ISSUER}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        # The name of the node is in no DNS.
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={folder / 'audit.log'}",
        "--audit-log-maxsize=2000",
    ]


def certificate_flags(pki: Path) -> list[str]:
    """Who the API server is, whom it believes, and as whom it calls kubelets and aggregated APIs."""
    return [
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
    ]
