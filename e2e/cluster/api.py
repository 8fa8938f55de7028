"""Talk to an API server with a client certificate, and write kubeconfig files. Standard library only.

Called by `up.py`, `volume.py` and the fixture of `tests/support/apiserver.py`; tests use kubectl or a real client.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class DeadlineError(AssertionError):
    """A condition did not come true in time; the message says which."""


def wait(what: str, condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> None:
    """Return when `condition()` holds; raise DeadlineError after `seconds`. Connection errors count as not yet."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, http.client.HTTPException) as error:
            last = error
        time.sleep(pause)
    raise DeadlineError(f"{what}: not within {seconds:.0f} s" + (f"; last error: {last}" if last else ""))


@dataclass(frozen=True)
class Api:
    """One API server as one identity whose files lie in `pki`."""

    url: str
    pki: Path
    identity: str = "admin"

    def context(self) -> ssl.SSLContext:
        """Trust the cluster's authority only and show the client certificate."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / f"{self.identity}.crt", self.pki / f"{self.identity}.key")
        return context

    def request(self, method: str, path: str, body: object = None, kind: str = "application/json") -> tuple[int, Any]:
        """Send one request; the answer is (HTTP status, JSON value or text). Raises OSError when nobody answers."""
        address = urlsplit(self.url)
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=10, context=self.context()
        )
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, body=data, headers={"Content-Type": kind, "Accept": "application/json"})
            answer = connection.getresponse()
            return answer.status, decode(answer.read())
        finally:
            connection.close()

    def apply(self, path: str, value: object) -> Any:
        """Server-side apply of one object at its full path; returns it as it is now. Raises RuntimeError if refused."""
        query = f"{path}?fieldManager=proving-ground&force=true"
        status, answer = self.request("PATCH", query, value, "application/apply-patch+yaml")
        if status not in (200, 201):
            raise RuntimeError(f"applying {path} was refused with {status}: {answer}")
        return answer

    def ready(self) -> bool:
        """Whether the server says so itself."""
        return self.request("GET", "/readyz")[0] == 200


def decode(data: bytes) -> Any:
    """JSON if it is JSON, text otherwise."""
    text = data.decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def embedded(path: Path) -> str:
    """A file as kubeconfigs embed it."""
    return base64.b64encode(path.read_bytes()).decode()


def write_kubeconfig(path: Path, url: str, pki: Path, identity: str = "admin") -> Path:
    """Write a self-contained kubeconfig (JSON, which is YAML) with mode 0600."""
    user = {
        "client-certificate-data": embedded(pki / f"{identity}.crt"),
        "client-key-data": embedded(pki / f"{identity}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "paddock",
        "clusters": [
            {
                "name": "paddock",
                "cluster": {"server": url, "certificate-authority-data": embedded(pki / "ca.crt")},
            }
        ],
        "users": [{"name": identity, "user": user}],
        "contexts": [{"name": "paddock", "context": {"cluster": "paddock", "user": identity}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
    return path
