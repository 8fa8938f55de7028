"""`make images`: build the images and import them into the cluster, or push them (PUSH=1).

Runs with the interpreter of `.venv`. IMAGE_PREFIX comes before `operator:dev`, `gateway:dev` and `runner:dev`. What has
not changed is neither built nor imported again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from e2e.cluster import apt, delivery, process, wheels
from e2e.cluster.build import exclusive
from e2e.cluster.layout import ROOT, STATE

PREFIX = os.environ.get("IMAGE_PREFIX") or "localhost/paddock-"
BASE = "localhost/debian:bookworm-slim"
PACKAGES = "python3,python3-venv,ca-certificates,libgomp1"
SOURCES = ("operator", "runner", "crds")
FILES = ("pyproject.toml", "README.md", "LICENSE", "Containerfile")


def run(*command: str) -> str:
    """Run a program; its output. Raises RuntimeError with the end of what it said."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def source_key() -> str:
    """What the images depend on: the project's files, the locks and how the engine is built."""
    found = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*"))]
    paths = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    paths += [ROOT / name for name in FILES] + [wheels.lock(name) for name in ("runtime", "engine")]
    named = [str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() for path in paths]
    return wheels.digest(*named, wheels.CMAKE_ARGS.encode(), wheels.machine().encode())


def exists(image: str) -> bool:
    """Whether buildah's storage has an image."""
    done = subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True, check=False)
    return done.returncode == 0


def label(image: str) -> str:
    """The source key that an image was built from, empty if there is none."""
    template = '{{index .OCIv1.Config.Labels "dev.paddock.sources"}}'
    command = ["buildah", "inspect", "--type", "image", "--format", template, image]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def ensure_base() -> None:
    """Make the base image from Debian's packages: the same as the one that the Containerfile would pull."""
    if exists(BASE):
        return
    print("images: making the base image from Debian's packages, once", flush=True)
    archive = wheels.cache("base", wheels.digest(PACKAGES.encode())).with_suffix(".tar")
    archive.parent.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        new = archive.with_name(f"new-{archive.name}")
        run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(new))
        os.replace(new, archive)
    container = run("buildah", "from", "scratch").strip()
    run("buildah", "add", container, str(archive), "/")
    run("buildah", "commit", "--rm", container, BASE)


def build(name: str, key: str) -> str:
    """Build one image, unless it is there from the same sources; its full name."""
    image = f"{PREFIX}{name}:dev"
    if label(image) != key:
        more = ["--isolation", "chroot", "--layers", "--pull-never", "--build-arg", f"BASE={BASE}"]
        where = ["--target", name, "--label", f"dev.paddock.sources={key}", "-t", image, "-f", "Containerfile", "."]
        run("buildah", "bud", *more, *where)
    return image


def push(image: str) -> None:
    """Push to the registry that the name says."""
    run("buildah", "push", image, f"docker://{image}")


def bring(image: str) -> None:
    """Import into the cluster of `make cluster`, unless it has this very image."""
    mark = STATE / "images" / image.replace("/", "_")
    key = label(image)
    if mark.exists() and mark.read_text() == key:
        return
    reference = Path(image).name
    run("buildah", "push", "--disable-compression", image, f"oci:{delivery.LAYOUT}:{reference}")
    delivery.deliver(image, reference)
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(key)


def target() -> Callable[[str], None] | None:
    """Where images go: a registry, the running cluster, or nowhere yet."""
    if os.environ.get("PUSH") == "1":
        return push
    if process.pid_of("containerd"):
        return bring
    print("images: make cluster does not run; run make images again when it does", flush=True)
    return None


def images() -> None:
    """Build and deliver all images. Raises RuntimeError."""
    key = source_key()
    names = [f"{PREFIX}{name}:dev" for name in wheels.EXTRAS]
    if any(label(image) != key for image in names):
        ensure_base()
        wheels.prepare()
    deliver = target()
    for name in wheels.EXTRAS:
        start = time.monotonic()
        image = build(name, key)
        if deliver is not None:
            deliver(image)
        print(f"images: {image} ({time.monotonic() - start:.0f} s)", flush=True)


def main() -> None:
    """Command line."""
    if os.geteuid() != 0:
        sys.exit("images: make images needs root")
    apt.ensure(apt.IMAGES)
    try:
        with exclusive(Path("/run/paddock-images.lock")):
            images()
    except RuntimeError as error:
        sys.exit(f"images: {error}")


if __name__ == "__main__":
    main()
