"""What this machine offers: memory in bytes, limited by the cgroup (v1 or v2) that we are in. Called by `model`."""

from __future__ import annotations

import contextlib
from pathlib import Path

_CGROUP_FILES = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory that all our processes together may use; 0 if unknown."""
    known = [value for value in (_total(root), *(_number(root / name) for name in _CGROUP_FILES)) if value > 0]
    return min(known, default=0)


def _total(root: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return 0


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0
