"""Numbers of a process and of its memory cgroup (v1 or v2), as the kernel tells them.

Called by `engine.client` (the child's memory), `engine.startup` (its own) and `engine.process` (who was killed why).
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_NO_LIMIT = 1 << 60


def resident_bytes(pid: int) -> int:
    """Resident memory of process `pid`, 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * resource.getpagesize()


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes of this one's memory cgroup the kernel killed for memory; 0 where it does not say."""
    for folder in _memory_cgroups(root):
        for name in ("memory.events", "memory.oom_control"):
            fields = dict(line.split(" ", 1) for line in _lines(folder / name) if " " in line)
            with suppress(KeyError, ValueError):
                return int(fields["oom_kill"])
    return 0


def memory_limit(root: Path = Path("/")) -> int | None:
    """The least memory limit in bytes of this process's cgroup and those above it, None without one."""
    names = ("memory.max", "memory.limit_in_bytes")
    lines = [line for folder in _memory_cgroups(root) for name in names for line in _lines(folder / name)]
    limits = [int(line) for line in lines if line.isdecimal() and int(line) < _NO_LIMIT]
    return min(limits, default=None)


def _memory_cgroups(root: Path) -> Iterator[Path]:
    """The folder of the own cgroup first, then those above it. In a container the path may name the host's folders:

    those are missing there, and what is mounted is the container's own.
    """
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        inner = PurePosixPath(path or "/").relative_to("/")
        for part in (inner, *inner.parents):
            if ".." not in part.parts:
                yield (mount / "memory" if controllers else mount) / part


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
