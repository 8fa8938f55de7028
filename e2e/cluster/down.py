"""`make cluster-down`: stop the cluster and remove everything that it made on this machine.

Works on whatever state a half-started or half-stopped cluster is in; a second call finds nothing to do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

from e2e.cluster import leftovers, network, process
from e2e.cluster.api import wait
from e2e.cluster.components import NAMES
from e2e.cluster.layout import DATA, FIXED, KUBECONFIG, STATE


def kill_all(pids: list[int]) -> None:
    """SIGKILL to processes that may end meanwhile."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def no_process() -> bool:
    """Kill what runs; whether nothing runs any more. Asked again and again, because a shim may start a helper."""
    found = leftovers.processes()
    kill_all(found)
    return not found


def unmount() -> bool:
    """Unmount everything of the cluster; whether nothing is mounted any more."""
    for point in leftovers.mounts():
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    return not leftovers.mounts()


def remove_cgroups() -> bool:
    """Remove the pods' control groups; whether none is left. The kernel refuses while a process is still leaving."""
    for folder in leftovers.cgroups():
        with contextlib.suppress(OSError):
            folder.rmdir()
    return not leftovers.cgroups()


def remove_files() -> None:
    """Remove the cluster's folders and what the kubelet left in fixed places."""
    for path in (STATE, DATA, *FIXED):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        FIXED[1].parent.rmdir()
    KUBECONFIG.unlink(missing_ok=True)


def down() -> list[str]:
    """Take everything down; what is left nevertheless, a line each."""
    # The kubelet first, or it would start again what is stopped here.
    for name in sorted(NAMES, key=lambda name: name != "kubelet"):
        process.kill(name)
    wait("the cluster's processes end", no_process, 30)
    wait("the cluster's file systems are unmounted", unmount, 10)
    wait("the pods' control groups are removed", remove_cgroups, 10)
    network.unmake()
    remove_files()
    return leftovers.find()


def main() -> None:
    """Command line."""
    if os.geteuid() != 0:
        sys.exit("cluster: make cluster-down needs root")
    start = time.monotonic()
    if left := down():
        sys.exit("cluster: left behind:\n  " + "\n  ".join(left))
    print(f"cluster: down, nothing is left on this machine ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
