"""The image of the pause program, written without an image builder. Called by `up.py`."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from e2e.cluster.layout import PAUSE_IMAGE

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    """Add a file that root owns."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def tar(name: str, data: bytes, mode: int) -> bytes:
    """A tar with one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, name, data, mode)
    return buffer.getvalue()


def write(program: Path, archive: Path, machine: str) -> None:
    """Write a docker-archive of `program` alone, under the name that containerd is configured with."""
    layer = tar("pause", program.read_bytes(), 0o755)
    config = {
        "architecture": MACHINES.get(machine, machine),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as out:
        add(out, "config.json", json.dumps(config).encode())
        add(out, "layer.tar", layer)
        add(out, "manifest.json", json.dumps(manifest).encode())
