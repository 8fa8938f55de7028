"""A small read-write registry of Ollama's protocol on loopback: real files, token flow, redirects, push, and faults.

For tests of the sources, of push and of the interop folder, where the real `ollama` pulls from it and pushes to it.
Blobs are answered with a 307 to another host name (as the public registry does) and a signed query; uploads are
redirected too. This is the state with its switches; `ollama_registry_http` is its face.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Auth = Literal["", "ollama", "basic", "docker"]
Uploads = Literal["redirect", "chunks", "whole"]
USER, PASSWORD = "somebody", "open-sesame"
_EMPTY_SUM = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Fault:
    """What a step answers instead; `times` it does so, after `skip` good answers."""

    status: int
    times: int = 1_000_000
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Seen:
    """One request: the step it was taken for, its head, and the status of the answer."""

    step: str
    method: str
    path: str
    headers: dict[str, str]
    status: int


@dataclass
class Upload:
    """An upload in progress. With redirects each part is a file of its own."""

    parts: dict[int, bytes] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return b"".join(self.parts[number] for number in sorted(self.parts))

    @property
    def etag(self) -> str:
        """As Ollama sends it: the MD5 of the parts' MD5 sums, and how many there are."""
        sums = [hashlib.md5(self.parts[number]).digest() for number in sorted(self.parts)]
        return f"{hashlib.md5(b''.join(sums)).hexdigest()}-{len(sums)}"


class OllamaRegistry:
    """State and switches. `folder` holds the blobs; manifests are kept in memory by (repository, tag)."""

    def __init__(self, folder: Path, auth: Auth = "", uploads: Uploads = "redirect") -> None:
        self.folder = folder
        self.auth = auth
        self.uploads = uploads
        self.by_digest = True
        """Whether manifests are served by digest as well."""
        self.direct = False
        """Answer blobs with their bytes instead of a redirect."""
        self.token_uses = 1_000_000
        """A token is refused after that many requests."""
        self.revoke_after: set[int] = set()
        """After so many authorised requests every token of before is refused."""
        self.refused_keys: set[str] = set()
        self.keys: set[str] = set()
        """Public keys (base64) whose signatures were good."""
        self.faults: dict[str, Fault] = {}
        """By step: manifest, manifest-head, head, blob, data, token, upload, part, commit, publish."""
        self.seen: list[Seen] = []
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.host = ""
        self.lock = threading.Lock()
        self._tokens: dict[str, int] = {}
        self._authorised = 0
        self._uploads: dict[str, Upload] = {}
        self._secret = secrets.token_hex(8)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def other_host(self) -> str:
        """The second name of this server, where bytes are."""
        return self.host.replace("127.0.0.1", "localhost")

    @property
    def origin(self) -> str:
        return f"http://{self.host}"

    @property
    def listed(self) -> str:
        """The value of PADDOCK_ALLOW_INSECURE_HOSTS."""
        return f"{self.host},{self.other_host}"

    def name(self, model: str) -> str:
        """The reference of `namespace/model:tag` here, with its scheme."""
        return f"{self.origin}/{model}"

    def add_blob(self, data: bytes) -> dict[str, object]:
        """Store a blob; returns its digest and size as a manifest wants them."""
        digest = digest_of(data)
        self._blob(digest).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def add_model(self, repository: str, tag: str, layers: dict[str, bytes], config: bytes = b"{}") -> bytes:
        """Store a model of `layers` by kind; returns its manifest."""
        prefix = "application/vnd.ollama.image."
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **self.add_blob(config)},
            "layers": [
                {"mediaType": kind if "/" in kind else prefix + kind, **self.add_blob(data)}
                for kind, data in layers.items()
            ],
        }
        # Indented on purpose: whoever writes it anew gets another digest.
        self.manifests[repository, tag] = data = json.dumps(manifest, indent=1).encode()
        return data

    def blob(self, digest: str) -> bytes | None:
        path = self._blob(digest)
        return path.read_bytes() if path.is_file() else None

    def steps(self, step: str) -> list[Seen]:
        """The requests of one step."""
        return [item for item in self.seen if item.step == step]

    def _blob(self, digest: str) -> Path:
        algorithm, _, value = digest.partition(":")
        assert algorithm == "sha256"
        assert len(value) == 64
        assert not set(value) - set("0123456789abcdef")
        return self.folder / value

    def manifest(self, repository: str, reference: str) -> bytes | None:
        if not reference.startswith("sha256:"):
            return self.manifests.get((repository, reference))
        of_repository = [data for (name, _), data in self.manifests.items() if name == repository]
        return next((data for data in of_repository if self.by_digest and digest_of(data) == reference), None)

    def fault(self, step: str) -> Fault | None:
        """The fault that this request of `step` meets."""
        found = self.faults.get(step)
        if found is None:
            return None
        with self.lock:
            if found.skip > 0:
                found.skip -= 1
                return None
            found.times -= 1
            return found if found.times >= 0 else None

    def signed(self, path: str) -> str:
        """An address on the other host name that needs no token."""
        return f"http://{self.other_host}{path}{'&' if '?' in path else '?'}sig={self._signature(path)}"

    def is_signed(self, path: str, signature: str) -> bool:
        return secrets.compare_digest(self._signature(path), signature)

    def _signature(self, path: str) -> str:
        return hashlib.sha256(f"{self._secret}{path}".encode()).hexdigest()[:32]

    def token(self) -> str:
        value = secrets.token_urlsafe(12)
        with self.lock:
            self._tokens[value] = self.token_uses
        return value

    def allows(self, header: str) -> bool:
        """Whether `Authorization` opens a request now."""
        if not self.auth:
            return True
        if self.auth == "basic":
            return header == basic_header()
        token = header.removeprefix("Bearer ")
        with self.lock:
            left = self._tokens.get(token, 0)
            self._tokens[token] = left - 1
            self._authorised += left > 0
            if left > 0 and self._authorised in self.revoke_after:
                self._tokens.clear()
        return left > 0

    def may_have_token(self, url: str, header: str) -> bool:
        """Judge a token request by its credentials; `url` is the whole address that was signed."""
        if self.auth == "docker":
            return header == basic_header()
        key, _, signature = header.partition(":")
        if not verifies(key, signature, f"GET,{url},{_EMPTY_SUM}") or key in self.refused_keys:
            return False
        self.keys.add(key)
        return abs(time.time() - int(parse_qs(urlsplit(url).query)["ts"][0])) < 300

    def start_upload(self) -> str:
        name = secrets.token_hex(8)
        self._uploads[name] = Upload()
        return name

    def upload(self, name: str) -> Upload | None:
        return self._uploads.get(name)

    def finish(self, name: str, digest: str, etag: str | None) -> bool:
        """Make the upload a blob if it hashes to `digest` (and the etag fits, where uploads are redirected)."""
        upload = self._uploads.pop(name)
        if digest_of(upload.data) != digest or (etag is not None and etag != upload.etag):
            return False
        self.add_blob(upload.data)
        return True


def basic_header() -> str:
    return "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def verifies(key: str, signature: str, text: str) -> bool:
    """Whether the base64 `signature` of `text` was made with the base64 SSH public `key` (ed25519)."""
    try:
        blob = base64.b64decode(key, validate=True)
        (length,) = struct.unpack(">I", blob[:4])
        kind, rest = blob[4 : 4 + length], blob[4 + length :]
        if kind != b"ssh-ed25519" or struct.unpack(">I", rest[:4])[0] != 32:
            return False
        Ed25519PublicKey.from_public_bytes(rest[4:36]).verify(base64.b64decode(signature), text.encode())
    except (ValueError, struct.error, InvalidSignature):
        return False
    return True
