"""The wheels that go into the images, made on the host: image builds have no network.

Called by `images.py` with the interpreter of `.venv`, which has pip, hatchling, cmake and ninja. `build/wheelhouse/`
holds `deps/` (locked packages and the engine), `project/` (this project) and one requirement file per image.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from e2e.cluster.build import exclusive
from e2e.cluster.layout import ROOT

WHEELHOUSE = ROOT / "build" / "wheelhouse"
EXTRAS = ("operator", "gateway", "runner")
# Debian 12, which the images are made of.
TARGET = "3.11"
MANYLINUX = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 36)
# For any machine: one library per generation of processors, the best is chosen when the engine starts.
CMAKE_ARGS = (
    "-DLLAVA_BUILD=OFF -DGGML_RPC=OFF -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON "
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib"
)


def digest(*parts: bytes) -> str:
    """A cache key of 20 hexadecimal digits."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def lock(name: str) -> Path:
    """A file of locked requirements."""
    return ROOT / "requirements" / f"{name}.txt"


def cache(name: str, key: str) -> Path:
    """A folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "paddock" / name / key


def pip(*args: str, **more: str) -> None:
    """Run pip of the present interpreter. Raises RuntimeError with the end of its output."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *args]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pip {args[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def filled(folder: Path, *args: str, **more: str) -> Path:
    """A cache folder that pip fills once (`args` end with the option that names a folder); renamed as a whole."""
    with exclusive(folder.with_name(folder.name + ".lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                pip(*args, f"{scratch}/out", **more)
                os.rename(f"{scratch}/out", folder)
    return folder


def engine() -> Path:
    """The folder of the portable llama-cpp-python wheel; building it takes minutes, once."""
    folder = cache("wheels", "portable-" + digest(lock("engine").read_bytes(), CMAKE_ARGS.encode(), machine().encode()))
    if not folder.exists():
        print("images: building the engine for any processor, once; 10 to 20 minutes on 2 cores", flush=True)
    flags = ["--no-deps", "--no-build-isolation", "--no-cache-dir", "--require-hashes", "-r", str(lock("engine"))]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return filled(folder, "wheel", *flags, "-w", CMAKE_ARGS=CMAKE_ARGS, PATH=path)


def machine() -> str:
    """The processor architecture as wheels name it."""
    return platform.machine()


def dependencies() -> Path:
    """The folder of all locked packages as wheels for the Python of the images."""
    tags = [f"manylinux_2_{minor}_{machine()}" for minor in MANYLINUX]
    tags += [f"manylinux2014_{machine()}", f"linux_{machine()}", "any"]
    target = ["--python-version", TARGET, "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    folder = cache("wheelhouse", digest(lock("runtime").read_bytes(), " ".join([*target, *tags]).encode()))
    flags = ["--no-deps", "--require-hashes", "--only-binary=:all:", "-r", str(lock("runtime"))]
    return filled(folder, "download", "-q", *flags, *target, *platforms, "-d")


def copy(source: Path, target: Path) -> None:
    """Hard links where possible; a wheel never changes."""
    for wheel in source.iterdir():
        try:
            os.link(wheel, target / wheel.name)
        except OSError:
            shutil.copy2(wheel, target / wheel.name)


def write_requirements(folder: Path) -> None:
    """What each image installs: the extras of pyproject.toml without the project itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    for extra in EXTRAS:
        wanted = list(extras[extra])
        if f"paddock-operator[{EXTRAS[1]}]" in wanted:
            wanted += extras[EXTRAS[1]]
        lines = [line for line in wanted if not line.startswith("paddock-operator")]
        (folder / f"{extra}.txt").write_text("\n".join(lines) + "\n")


def prepare() -> None:
    """Make the wheelhouse anew from the caches and the present checkout. Raises RuntimeError."""
    shutil.rmtree(WHEELHOUSE, ignore_errors=True)
    for name in ("deps", "project"):
        (WHEELHOUSE / name).mkdir(parents=True)
    for folder in (dependencies(), engine()):
        copy(folder, WHEELHOUSE / "deps")
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", ".", "-w", str(WHEELHOUSE / "project"))
    write_requirements(WHEELHOUSE)
