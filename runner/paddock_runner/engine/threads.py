"""How many threads may compute: the CPU quota of the cgroup (v1 or v2), at most the CPUs this process may use.

Called by `engine.llama` when the record says 0. More threads than quota only burn it: then the kernel stops them all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_threads(root: Path = Path("/")) -> int:
    """At least 1; a fraction of a CPU in the quota is rounded down."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for quota in _quotas(root) if quota is not None]
    return max(1, min([allowed, *map(int, quotas)]))


def parse_v2(text: str) -> float | None:
    """CPUs of a `cpu.max` file (`quota period`, `max period`); None for no limit or nonsense."""
    words = text.split()
    if len(words) != 2 or words[0] == "max":
        return None
    return _ratio(words[0], words[1])


def parse_v1(quota: str, period: str) -> float | None:
    """CPUs of `cpu.cfs_quota_us` and `cpu.cfs_period_us`; None for no limit (-1) or nonsense."""
    return _ratio(quota.strip(), period.strip())


def cgroup_paths(text: str) -> tuple[str | None, str | None]:
    """(v2 path, path of the v1 cpu controller) from the text of /proc/self/cgroup, None where there is none."""
    unified = cpu = None
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            unified = path
        elif "cpu" in controllers.split(","):
            cpu = path
    return unified, cpu


def _ratio(quota: str, period: str) -> float | None:
    try:
        numbers = int(quota), int(period)
    except ValueError:
        return None
    return numbers[0] / numbers[1] if min(numbers) > 0 else None


def _quotas(root: Path) -> Iterator[float | None]:
    unified, cpu = cgroup_paths(_read(root / "proc/self/cgroup"))
    mount = root / "sys/fs/cgroup"
    if unified is not None:
        for folder in _with_parents(mount, unified):
            yield parse_v2(_read(folder / "cpu.max"))
    if cpu is not None:
        for folder in (path for name in ("cpu", "cpu,cpuacct") for path in _with_parents(mount / name, cpu)):
            yield parse_v1(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _with_parents(mount: Path, path: str) -> Iterator[Path]:
    """Every level limits. In a container the path may name folders of the host: they are missing and say nothing."""
    inner = PurePosixPath(path).relative_to("/")
    for part in [inner, *inner.parents]:
        if ".." not in part.parts:
            yield mount / part


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
