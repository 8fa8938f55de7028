"""Debian's docker-registry as a real registry on loopback: anonymous, with a password, with tokens, over TLS.

Used by tests of OCI sources, pushes and bundles. The program is taken from the machine, or its package is downloaded by
apt and unpacked into a cache folder, without installing anything. Tests are skipped where there is neither.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.authority import Authority

from paddock_runner.core.digest import Digest

PACKAGE = "docker-registry"
USER, PASSWORD = "reader", "a-password-of-the-tests"
_BCRYPT = "$2b$04$WSMDcuq1GeU0U73BjVhsiOIjTO5rDe4Yrv.Jx4R3YJ/uwypM4fjEa"
_SERVICE, _ISSUER = "registry-of-the-tests", "tokens-of-the-tests"
_START_SECONDS = 30.0

Auth = Literal["none", "basic", "token"]


@functools.cache
def program() -> Path:
    """The registry's program. Skips the test where it cannot be had."""
    found = shutil.which(PACKAGE, path=f"{os.environ.get('PATH', '')}:/usr/bin")
    if found is not None:
        return Path(found)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddock" / PACKAGE
    made = home / "usr" / "bin" / PACKAGE
    return made if made.is_file() else _unpacked(home) / "usr" / "bin" / PACKAGE


def _unpacked(home: Path) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip(f"{PACKAGE} is missing; install it, or run on Debian or Ubuntu")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        if not _downloaded(scratch):
            if os.geteuid() == 0:
                subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)
            if not _downloaded(scratch):
                pytest.skip(f"{PACKAGE} is missing, and apt-get download {PACKAGE} does not work; install it")
        root = Path(scratch) / "root"
        subprocess.run(["dpkg", "-x", next(Path(scratch).glob("*.deb")), root], check=True)
        if not home.exists():
            root.rename(home)
    return home


def _downloaded(folder: str) -> bool:
    done = subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0 and any(Path(folder).glob("*.deb"))


@dataclass(frozen=True)
class Registry:
    """A running registry. `ca_file` is the authority of its certificate, None for plain HTTP."""

    host: str
    storage: Path
    auth: Auth
    ca_file: Path | None
    log: Path
    token_host: str = ""

    @property
    def scheme(self) -> str:
        return "https" if self.ca_file else "http"

    def reference(self, rest: str) -> str:
        """A reference to something of this registry."""
        return f"{'' if self.ca_file else 'http://'}{self.host}/{rest}"

    def request(
        self, path: str, method: str = "GET", data: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """What a plain client gets: status, headers with lower-case names, body."""
        url = path if "://" in path else f"{self.scheme}://{self.host}{path}"
        request = urllib.request.Request(url, data, {k.replace("_", "-"): v for k, v in headers.items()}, method=method)
        if self.auth == "basic":
            request.add_header("Authorization", basic(USER, PASSWORD))
        context = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else None
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as reply:
                return reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()

    def put_blob(self, repository: str, data: bytes) -> dict[str, object]:
        """Store a blob; returns digest and size as in a descriptor."""
        digest = str(Digest.of(data))
        _, headers, _ = self.request(f"/v2/{repository}/blobs/uploads/", "POST", b"")
        location = headers["location"]
        status, _, body = self.request(
            f"{location}&digest={digest}", "PUT", data, Content_Type="application/octet-stream"
        )
        assert status == 201, body
        return {"digest": digest, "size": len(data)}

    def put_manifest(self, repository: str, word: str, media_type: str, value: object) -> dict[str, object]:
        """Store a manifest or index under a tag; returns its descriptor."""
        data = json.dumps(value).encode()
        status, _, body = self.request(f"/v2/{repository}/manifests/{word}", "PUT", data, Content_Type=media_type)
        assert status == 201, body
        return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


def basic(user: str, password: str) -> str:
    """The value of Authorization for a user and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def docker_registry(
    folder: Path, auth: Auth = "none", tls: bool = False, address: str = "127.0.0.1"
) -> Iterator[Registry]:
    """A registry at an address of this machine, its storage below `folder`; USER with PASSWORD if it asks for one."""
    executable = program()
    folder.mkdir(parents=True, exist_ok=True)
    storage, log = folder / "storage", folder / "registry.log"
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(storage),
        "OTEL_TRACES_EXPORTER": "none",
    }
    with ExitStack() as stack:
        host = f"{address}:{free_port()}"
        environment["REGISTRY_HTTP_ADDR"] = host
        ca_file = _add_tls(environment, folder) if tls else None
        if auth == "basic":
            _add_password(environment, folder)
        token_host = ""
        if auth == "token":
            token_host = stack.enter_context(_tokens(environment, folder))
        output = stack.enter_context(log.open("wb"))
        configuration = folder / "config.yml"
        configuration.write_text(
            "version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {}, delete: {enabled: true}}\n"
        )
        command = [str(executable), "serve", str(configuration)]
        process = stack.enter_context(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        stack.callback(_end, process)
        registry = Registry(host, storage, auth, ca_file, log, token_host)
        _wait(registry, process)
        yield registry


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _wait(registry: Registry, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, registry.log.read_text()
        assert time.monotonic() < deadline, f"the registry does not answer: {registry.log.read_text()}"
        try:
            registry.request("/v2/")
        except OSError:
            time.sleep(0.02)
        else:
            return


def _add_tls(environment: dict[str, str], folder: Path) -> Path:
    authority = Authority.make()
    certificate, key = authority.issue("127.0.0.1")
    for name, content in (("ca.pem", authority.pem), ("tls.pem", certificate), ("tls.key", key)):
        (folder / name).write_bytes(content)
    environment["REGISTRY_HTTP_TLS_CERTIFICATE"] = str(folder / "tls.pem")
    environment["REGISTRY_HTTP_TLS_KEY"] = str(folder / "tls.key")
    return folder / "ca.pem"


def _add_password(environment: dict[str, str], folder: Path) -> None:
    (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
    environment["REGISTRY_AUTH_HTPASSWD_REALM"] = "registry of the tests"
    environment["REGISTRY_AUTH_HTPASSWD_PATH"] = str(folder / "htpasswd")


@contextmanager
def _tokens(environment: dict[str, str], folder: Path) -> Iterator[str]:
    """The token service that the registry trusts: whoever shows the password gets what is asked for."""
    authority = Authority.make()
    (folder / "tokens.pem").write_bytes(authority.pem)

    class Handling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            known = self.headers.get("Authorization") == basic(USER, PASSWORD)
            body = json.dumps({"token": _token(authority, query.get("scope", []) if known else [])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handling) as server:
        environment["REGISTRY_AUTH_TOKEN_REALM"] = f"http://127.0.0.1:{server.server_port}/token"
        environment["REGISTRY_AUTH_TOKEN_SERVICE"] = _SERVICE
        environment["REGISTRY_AUTH_TOKEN_ISSUER"] = _ISSUER
        environment["REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE"] = str(folder / "tokens.pem")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


def _token(authority: Authority, scopes: list[str]) -> str:
    """A JSON Web Token as docs/spec/auth/jwt of the distribution project has it."""
    now = int(time.time())
    access = []
    for scope in scopes:
        kind, rest = scope.split(":", 1)
        name, actions = rest.rsplit(":", 1)
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    claims = {"iss": _ISSUER, "sub": USER, "aud": _SERVICE, "exp": now + 300, "nbf": now - 5, "iat": now, "jti": "1"}
    der = base64.b64encode(authority.certificate.public_bytes(Encoding.DER)).decode()
    signed = f"{_part({'typ': 'JWT', 'alg': 'ES256', 'x5c': [der]})}.{_part({**claims, 'access': access})}"
    r, s = decode_dss_signature(authority.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _part(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
