"""Where the API server is and what this pod shows it: address, token, CA. Made by `commands.gateway`.

The kubelet replaces token and CA while the pod runs, so both are read from their files whenever they are needed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DIRECTORY_VARIABLE = "PADDOCK_SERVICE_ACCOUNT_DIR"
MAX_TOKEN_BYTES = 64 * 1024


class NotInClusterError(ValueError):
    """The environment of a pod is missing; the message names what."""


@dataclass(slots=True)
class Access:
    """`base` is https://HOST:PORT, `directory` holds `token` and `ca.crt`."""

    base: str
    directory: Path
    _context: ssl.SSLContext | None = field(default=None, repr=False)
    _context_of: tuple[int, int, int] | None = None

    def authorization(self) -> str:
        """The value of the Authorization header, from the token as it is now. Raises OSError or ValueError."""
        with (self.directory / "token").open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        if not token or any(letter <= " " for letter in token):
            raise ValueError("the ServiceAccount's token is not one line of text")
        return f"Bearer {token}"

    def tls(self) -> ssl.SSLContext:
        """A context that trusts the cluster's CA as it is now. Raises OSError (an unreadable or invalid CA)."""
        path = self.directory / "ca.crt"
        status = path.stat()
        signature = status.st_ino, status.st_size, status.st_mtime_ns
        if self._context is None or signature != self._context_of:
            self._context = ssl.create_default_context(cafile=str(path))
            self._context_of = signature
        return self._context


def in_cluster(environment: Mapping[str, str] = os.environ) -> Access:
    """The access of the pod that this program runs in. Raises `NotInClusterError`."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not port.isdecimal():
        raise NotInClusterError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set, as in every pod")
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Access(f"https://{authority}", Path(environment.get(DIRECTORY_VARIABLE) or DIRECTORY))
