"""Look for anything that the cluster left on the machine: `python3 -m e2e.cluster.leftovers`; exit code 1 with a list.

Called by `down.py` at its end, and by hand.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from e2e.cluster import build, network, process
from e2e.cluster.layout import DATA, FIXED, STATE

CGROUPS = Path("/sys/fs/cgroup")
PODS = "kubepods"


def mine(words: list[str]) -> bool:
    """Whether a command line belongs to the cluster: one of its programs on its files, or a shim of its containerd."""
    places = (str(STATE), str(DATA))
    ours = (bool(words) and words[0].startswith(str(build.cache_dir()))) or "containerd" in "".join(words[:1])
    return ours and any(place in word for word in words for place in places)


def command_line(pid: str) -> list[str]:
    """The words of a process's command line, [] if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def processes() -> list[int]:
    """Live processes of the cluster, those in pods included."""
    all_pids = [name for name in os.listdir("/proc") if name.isdigit()]
    found = {int(pid) for pid in all_pids if mine(command_line(pid))}
    return sorted(pid for pid in found | in_pods() if process.runs(pid))


def cgroups() -> list[Path]:
    """Control groups of pods, children before parents, on every hierarchy."""
    # With cgroup v2 there is one hierarchy, at the top itself.
    tops = [CGROUPS / PODS, *sorted(CGROUPS.glob(f"*/{PODS}"))]
    found = [Path(folder) for top in tops for folder, _, _ in os.walk(top)]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def in_pods() -> set[int]:
    """Processes in the control groups of pods."""
    found: set[int] = set()
    for folder in cgroups():
        try:
            found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
        except OSError:
            continue
    return found


def mounts() -> list[str]:
    """Mount points of the cluster, the last mounted first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in reversed(points) if point.startswith((f"{STATE}/", f"{DATA}/"))]


def files() -> list[str]:
    """Folders that should be gone."""
    return [str(path) for path in (STATE, DATA, *FIXED) if path.exists()]


def find() -> list[str]:
    """Everything that is left, a line each."""
    groups: list[tuple[str, list[str]]] = [
        ("process", [f"{pid} {' '.join(command_line(str(pid)))[:120]}" for pid in processes()]),
        ("mount", mounts()),
        ("link", network.attached()),
        *((firewall, network.our_rules(firewall)) for firewall in network.FIREWALLS),
        ("cgroup", [str(path) for path in cgroups()]),
        ("files", files()),
    ]
    return [f"{kind}: {item}" for kind, items in groups for item in items]


def main() -> None:
    """Command line: say what is left."""
    if left := find():
        sys.exit("cluster: left behind:\n  " + "\n  ".join(left))
    print("cluster: nothing is left on this machine")


if __name__ == "__main__":
    main()
