"""A registry, a hub and a mirror on this machine that pods of its own cluster reach by the node's address."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.docker_registry import PASSWORD, USER, Registry, docker_registry
from tests.support.hub import Hub, serving_hub
from tests.support.waiting import Lines

from e2e.cluster import layout
from e2e.support.cluster import ROOT

ARTIFACT = "acme/tiny"
TOKEN = "hf_of-the-scenarios"
PADDOCK = str(ROOT / ".venv" / "bin" / "paddock")


@dataclass(frozen=True)
class Places:
    """`settings` are the chart's `sources` with which pullers may go there."""

    registry: Registry
    hub: Hub
    mirror: str

    def settings(self, allow: list[dict[str, Any]]) -> dict[str, Any]:
        hosts = [self.registry.host, *sorted(self.hub.hosts)]
        cidr = f"{layout.NODE_IP}/32"
        more = [{"host": host, "cidr": cidr, "port": int(host.rpartition(":")[2])} for host in hosts]
        mirrors = [{"host": "registry.ollama.ai", "url": self.mirror, "cidr": cidr}]
        return {"allow": [*allow, *more], "mirrors": mirrors, "huggingFaceEndpoint": self.hub.url}

    def push_own(self, tag: str, gguf: Path, home: Path) -> str:
        """`paddock create` and `paddock push` of a GGUF file, as a user does; the digest of what the registry has."""
        (home / "Modelfile").write_text(f"FROM {gguf}\nSYSTEM You are small.\n")
        (secret := home / "credentials").mkdir()
        (secret / "username").write_text(USER)
        (secret / "password").write_text(PASSWORD)
        there, where = f"oci:{self.registry.host}/{ARTIFACT}:{tag}", ("--home", str(home))
        _paddock("create", "pushed", "-f", str(home / "Modelfile"), *where)
        _paddock("push", "pushed", there, "--insecure", "--credentials", str(secret), *where)
        # manifests keep the media type that they have in the cache, which is Docker's as in Ollama's registries
        accepted = "application/vnd.docker.distribution.manifest.v2+json"
        return self.registry.request(f"/v2/{ARTIFACT}/manifests/{tag}", Accept=accepted)[1]["docker-content-digest"]

    def push(self, tag: str, gguf: bytes) -> str:
        """An artifact with one GGUF layer under a tag, as other tools make it; the digest of its manifest."""
        layer = {"mediaType": "application/octet-stream", **self.registry.put_blob(ARTIFACT, gguf)}
        layer["annotations"] = {"org.opencontainers.image.title": "tiny.gguf"}
        config = {"mediaType": "application/vnd.oci.empty.v1+json", **self.registry.put_blob(ARTIFACT, b"{}")}
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}
        return str(self.registry.put_manifest(ARTIFACT, tag, kind, manifest)["digest"])

    def reference(self, tag: str) -> str:
        return self.registry.reference(f"{ARTIFACT}:{tag}")

    def login(self, name: str, password: str = PASSWORD) -> dict[str, Any]:
        """What `kubectl create secret docker-registry` makes for this registry."""
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        login = {"auths": {self.registry.host: {"username": USER, "password": password, "auth": auth}}}
        return secret(name, "kubernetes.io/dockerconfigjson", {".dockerconfigjson": json.dumps(login)})

    def basic(self, name: str) -> dict[str, Any]:
        """The same as user name and password."""
        return secret(name, "kubernetes.io/basic-auth", {"username": USER, "password": PASSWORD})

    def downloads(self) -> int:
        """Requests for the bytes of large files of the hub."""
        return len([item for item in self.hub.requests("storage") if item.method == "GET"])

    def fetched(self) -> set[str]:
        """SHA-256 of the large files of the hub of which bytes were asked for."""
        paths = [item.path for item in self.hub.requests("storage") if item.method == "GET"]
        return {path.strip("/").partition("?")[0] for path in paths}


def _paddock(*words: str) -> None:
    done = subprocess.run([PADDOCK, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def secret(name: str, kind: str, data: dict[str, str]) -> dict[str, Any]:
    meta = {"name": name}
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": meta, "stringData": data}


@contextmanager
def serving(folder: Path, mirrored: Path) -> Iterator[Places]:
    """A registry with a password, a hub, and a mirror that has a GGUF file as Ollama's `mirrored:latest`."""
    address = layout.NODE_IP
    with (
        docker_registry(folder / "registry", auth="basic", address=address) as registry,
        serving_hub(address) as hub,
        _mirror(folder / "mirror", mirrored) as mirror,
    ):
        yield Places(registry, hub, mirror)


@contextmanager
def _mirror(home: Path, gguf: Path) -> Iterator[str]:
    """The URL of `paddock serve-blobs`, which a neighbour runs over what it has."""
    home.mkdir()
    (home / "Modelfile").write_text(f"FROM {gguf}\n")
    _paddock("create", "mirrored", "-f", str(home / "Modelfile"), "--home", str(home))
    command = [PADDOCK, "serve-blobs", "--home", str(home), "--listen", f"{layout.NODE_IP}:0", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            listening = Lines(process.stdout).find(lambda line: "listening" in line)
            yield f"http://{json.loads(listening)['address']}"
        finally:
            process.terminate()
