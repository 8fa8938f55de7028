"""Certificates and keys of the proving ground, made with the `openssl` program.

Called by `up.py` and by the fixture of `tests/support/apiserver.py`. A folder holds `ca`, `front-proxy-ca`, the service
account keys and one certificate per identity, as NAME.crt and NAME.key.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CONFIG = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = unused\n"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
DAYS = "3650"


@dataclass(frozen=True)
class Identity:
    """Whom a certificate names: file name, common name, group, subject alternative names and the signing authority."""

    file: str
    common_name: str
    group: str = ""
    hosts: tuple[str, ...] = ()
    authority: str = "ca"

    @property
    def subject(self) -> str:
        """The subject in the form that openssl reads."""
        return (f"/O={self.group}" if self.group else "") + f"/CN={self.common_name}"


ADMIN = Identity("admin", "kubernetes-admin", "system:masters")
FRONT_PROXY = Identity("front-proxy-client", "front-proxy-client", authority="front-proxy-ca")
KUBELET_CLIENT = Identity("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters")


def server(hosts: Iterable[str]) -> Identity:
    """The API server's own certificate, valid for `hosts` (DNS names and IP addresses)."""
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    return Identity("apiserver", "kube-apiserver", hosts=(*names, *hosts))


def openssl(folder: Path, *args: str) -> None:
    """Run openssl in `folder`; raises RuntimeError with its complaint, or with the fix when it is missing."""
    if shutil.which("openssl") is None:
        raise RuntimeError("openssl is missing; install it (Debian and Ubuntu: apt-get install openssl)")
    done = subprocess.run(["openssl", *args], cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(args)} failed: {done.stderr.strip()}")


def make_authority(folder: Path, name: str) -> None:
    """A self-signed certificate authority."""
    extensions = [
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,keyCertSign,cRLSign",
        "subjectKeyIdentifier=hash",
    ]
    request = ["req", "-x509", "-config", "openssl.cnf", *NEW_KEY, "-days", DAYS, "-subj", f"/CN=paddock-{name}"]
    openssl(folder, *request, *add(extensions), "-keyout", f"{name}.key", "-out", f"{name}.crt")


def add(extensions: Iterable[str]) -> list[str]:
    """Arguments that add certificate extensions."""
    return [word for extension in extensions for word in ("-addext", extension)]


def alternative(host: str) -> str:
    """One subject alternative name."""
    return f"IP:{host}" if host.replace(".", "").isdigit() or ":" in host else f"DNS:{host}"


def make_certificate(folder: Path, identity: Identity) -> None:
    """A certificate for one identity, for clients and servers."""
    extensions = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=clientAuth,serverAuth",
        "authorityKeyIdentifier=keyid",
    ]
    if identity.hosts:
        extensions.append("subjectAltName=" + ",".join(map(alternative, identity.hosts)))
    signer = ["-CA", f"{identity.authority}.crt", "-CAkey", f"{identity.authority}.key"]
    request = ["req", "-x509", "-config", "openssl.cnf", *NEW_KEY, *signer, "-days", DAYS, "-subj", identity.subject]
    openssl(folder, *request, *add(extensions), "-keyout", f"{identity.file}.key", "-out", f"{identity.file}.crt")


def make_service_account_keys(folder: Path) -> None:
    """The pair that signs and verifies service account tokens."""
    openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "sa.key")
    openssl(folder, "pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub")


def make(folder: Path, identities: Iterable[Identity]) -> None:
    """Fill an empty folder with the authorities, the service account keys and `identities`. Raises RuntimeError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "openssl.cnf").write_text(CONFIG)
    # An authority of its own for aggregated APIs: with the clients' authority any client could pose as the proxy.
    for name in ("ca", "front-proxy-ca"):
        make_authority(folder, name)
    make_service_account_keys(folder)
    for identity in identities:
        make_certificate(folder, identity)
