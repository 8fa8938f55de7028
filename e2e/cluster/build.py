"""Build the programs of the proving ground from Go modules, once: `python3 -m e2e.cluster.build apiserver|cluster`.

Called by `up.py`, by the pytest fixture of `tests/support/apiserver.py` and by hand. Needs Go on PATH and the standard
library only. The programs lie in `~/.cache/paddock/cluster/<key>/bin`; the key covers every input, so a change of a
version, a checksum or a flag builds anew and a second call only looks whether the files are there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MODULES = Path(__file__).resolve().parent / "go"
TOOLS = {
    "coredns": "github.com/coredns/coredns@v1.12.0",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok@v0.7.0",
}
KUBERNETES = (
    "kube-apiserver",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
OWN = ("etcd", "pause", "kstatus")
GROUPS = {
    "apiserver": ("etcd", "kube-apiserver", "kubectl"),
    "cluster": (*OWN, *KUBERNETES, *TOOLS),
}
SMALL = ("-trimpath", "-ldflags")


class BuildError(Exception):
    """A program could not be built; the message says what to do."""


def kubernetes_version() -> str:
    """The version that go.mod pins, such as `v1.35.4`."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (MODULES / "kubernetes/go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError("e2e/cluster/go/kubernetes/go.mod does not require k8s.io/kubernetes")
    return found.group(1)


def kubernetes_ldflags() -> str:
    """Linker flags; without the version the programs call themselves v0.0.0 and clients refuse them."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    stamp = "k8s.io/component-base/version"
    return f"-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"


def key() -> str:
    """What the programs depend on, as 16 hexadecimal digits."""
    files = sorted(path for path in MODULES.rglob("*") if path.is_file())
    parts = [path.relative_to(MODULES).as_posix().encode() + b"\0" + path.read_bytes() for path in files]
    words = [kubernetes_ldflags(), platform.machine(), *TOOLS.values(), *SMALL]
    return hashlib.sha256(b"\0".join([*parts, *(word.encode() for word in words)])).hexdigest()[:16]


def cache_dir() -> Path:
    """`~/.cache/paddock/cluster`, or below XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "paddock" / "cluster"


def bin_dir() -> Path:
    """Where the programs of the present key are or will be."""
    return cache_dir() / key() / "bin"


def missing(group: str) -> list[str]:
    """The programs of a group that are not built yet."""
    folder = bin_dir()
    return [name for name in GROUPS[group] if not (folder / name).exists()]


def go() -> str:
    """The path of the Go tool, or a BuildError that says how to get it."""
    found = shutil.which("go")
    if found is None:
        raise BuildError("Go is missing; install Go 1.25 or newer (https://go.dev/dl/) and put it on PATH")
    return found


def run_go(args: list[str], folder: Path, gobin: Path) -> None:
    """Run the Go tool without cgo; its output appears only when it fails."""
    # -buildvcs would ask git about the checkout; GOFLAGS of the user must not change what the key stands for.
    env = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(gobin), "GOFLAGS": "-buildvcs=false"}
    done = subprocess.run([go(), *args], cwd=folder, env=env, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"go {' '.join(args)} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")


def build_kubernetes(names: list[str], out: Path) -> None:
    """All commands of Kubernetes in one call, because they share most packages."""
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in names]
    run_go(["build", *SMALL, kubernetes_ldflags(), "-o", f"{out}/", *packages], MODULES / "kubernetes", out)


def build_own(name: str, out: Path) -> None:
    """A main package of ours in `go/<name>`."""
    run_go(["build", *SMALL, "-s -w", "-o", f"{out}/{name}", "."], MODULES / name, out)


def build_tool(name: str, out: Path) -> None:
    """A command that its own module can install."""
    # Outside of any module, or `go install` would look at the nearest go.mod.
    run_go(["install", *SMALL, "-s -w", TOOLS[name]], out, out)


def build(names: list[str], out: Path) -> Iterator[list[str]]:
    """Build into `out`, yielding after each step the names that are ready."""
    for name in [name for name in OWN if name in names]:
        build_own(name, out)
        yield [name]
    kubernetes = [name for name in KUBERNETES if name in names]
    if kubernetes:
        build_kubernetes(kubernetes, out)
        yield kubernetes
    for name in [name for name in TOOLS if name in names]:
        build_tool(name, out)
        yield [name]


def build_missing(group: str) -> None:
    """Build what is missing and move each program into place as a whole. The caller holds the lock."""
    folder = bin_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        start = time.monotonic()
        for names in build(missing(group), Path(scratch)):
            for name in names:
                os.replace(Path(scratch) / name, folder / name)
            print(
                f"cluster: built {', '.join(names)} after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True
            )


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock file; other processes wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure(group: str) -> Path:
    """Make all programs of `group` (apiserver, cluster) available and return their folder. Raises BuildError."""
    if not missing(group):
        return bin_dir()
    go()
    with exclusive(cache_dir() / f"{key()}.lock"):
        if absent := missing(group):
            print(
                f"cluster: building {', '.join(absent)} from source once; up to 12 minutes on 2 cores",
                file=sys.stderr,
                flush=True,
            )
            build_missing(group)
    return bin_dir()


def main() -> None:
    """Command line: build a group and print the folder."""
    group = sys.argv[1] if len(sys.argv) > 1 else "cluster"
    if group not in GROUPS:
        sys.exit(f"cluster: unknown group {group!r}; use {' or '.join(GROUPS)}")
    try:
        print(ensure(group))
    except BuildError as error:
        sys.exit(f"cluster: {error}")


if __name__ == "__main__":
    main()
