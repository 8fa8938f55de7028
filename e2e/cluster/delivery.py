"""Bring an image from buildah's storage into the cluster's containerd: only the layers that it does not have yet.

Called by `images.py`. The image goes into an OCI layout, where layers are shared, then into a tar without what
containerd holds already; a change of code then costs a second instead of the whole image.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from e2e.cluster import components, pause
from e2e.cluster.layout import STATE

LAYOUT = STATE / "oci"
REFERENCE = "org.opencontainers.image.ref.name"
# The annotation that containerd takes an image's name from.
NAME = "io.containerd.image.name"


def blob(digest: str) -> Path:
    """The file of a blob of the layout."""
    return LAYOUT / "blobs" / digest.replace(":", "/")


def descriptor(reference: str) -> dict[str, Any]:
    """The entry of an image in the layout's index. Raises RuntimeError if there is none."""
    entries = json.loads((LAYOUT / "index.json").read_text())["manifests"]
    for entry in entries:
        if entry.get("annotations", {}).get(REFERENCE) == reference:
            return dict(entry)
    raise RuntimeError(f"buildah wrote no image {reference} into {LAYOUT}")


def blobs(entry: dict[str, Any]) -> list[str]:
    """The digests of an image: manifest, configuration, layers."""
    manifest = json.loads(blob(entry["digest"]).read_text())
    return [entry["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]


def write_archive(image: str, reference: str, present: set[str]) -> bytes:
    """An OCI archive of an image without the blobs that are `present`."""
    entry = descriptor(reference)
    index = {"schemaVersion": 2, "manifests": [{**entry, "annotations": {NAME: image}}]}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        pause.add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        for digest in blobs(entry):
            if digest not in present:
                archive.add(blob(digest), f"blobs/{digest.replace(':', '/')}")
        pause.add(archive, "index.json", json.dumps(index).encode())
    return buffer.getvalue()


def deliver(image: str, reference: str) -> None:
    """Import `image`, which is in the layout under `reference`."""
    present = set(components.ctr("content", "list", "--quiet").split())
    path = STATE / "image.tar"
    try:
        path.write_bytes(write_archive(image, reference, present))
        components.ctr("images", "import", str(path))
    finally:
        path.unlink(missing_ok=True)
