"""What this machine offers: memory in bytes, limited by the cgroup (v1 or v2) that we are in.

Called by `up`, and by `paddock fit` for what is free of it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_CGROUP_FILES = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED_FILES = ("sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory/memory.usage_in_bytes")
_STAT_FILES = ("sys/fs/cgroup/memory.stat", "sys/fs/cgroup/memory/memory.stat")


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory that all our processes together may use; 0 if unknown."""
    known = [_meminfo(root, "MemTotal"), *(_number(root / name) for name in _CGROUP_FILES)]
    return min((value for value in known if value > 0), default=0)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that a new process may take without taking them from others; 0 if unknown.

    Pages of files that nobody used for a while count as free, here as in MemAvailable.
    """
    known = [_meminfo(root, "MemAvailable")]
    for limit, used, stat in zip(_CGROUP_FILES, _USED_FILES, _STAT_FILES, strict=True):
        most = _number(root / limit)
        if most > 0:
            known.append(max(most - _number(root / used) + _field(root / stat, "inactive_file"), 1))
    return min((value for value in known if value > 0), default=0)


def _meminfo(root: Path, name: str) -> int:
    return _field(root / "proc/meminfo", f"{name}:") * 1024


def _field(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.split()[:1] == [name]:
                return int(line.split()[1])
    return 0


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0
