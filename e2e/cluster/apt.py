"""Install the Debian packages that a part of the proving ground needs, if their programs are missing.

Called by `up.py` and `images.py`. On other systems the error names the programs to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

CLUSTER = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip6tables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "openssl": "openssl",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
IMAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}


def missing(programs: dict[str, str]) -> list[str]:
    """The packages of programs that are not installed."""
    return sorted({package for program, package in programs.items() if shutil.which(program) is None})


def ensure(programs: dict[str, str]) -> None:
    """Install what is missing. Exits with the list where there is no apt-get or no root."""
    absent = missing(programs)
    if not absent:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"cluster: programs are missing; install {', '.join(absent)} with your package manager")
    print(f"cluster: installing {', '.join(absent)}", file=sys.stderr, flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *absent]
    for command in (["apt-get", "update", "-q"], install):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"cluster: {' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
