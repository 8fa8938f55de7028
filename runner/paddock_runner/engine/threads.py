"""How many threads may compute: the CPU quota of the cgroup (v1 or v2), at most the CPUs this process may use.

Used by `engine.llama` and `engine.llama_embed`. More threads than quota only burn it: then the kernel stops them all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

# A pod can be resized while it runs; reading a handful of small files takes well under a millisecond.
_RE_READ_SECONDS = 2.0


class ThreadCount:
    """How many threads to compute with: `fixed` if it is not 0, else what the quota allows as of now.

    Read `value`; ask `changed` between steps. `clock` is in seconds.
    """

    def __init__(self, fixed: int, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._fixed = fixed
        self._root = root
        self._clock = clock
        self._read_at = clock()
        self.value = fixed or available_threads(root)

    def changed(self) -> bool:
        """Whether `value` is another one than before. The files are read every 2 s at most."""
        now = self._clock()
        if self._fixed or now - self._read_at < _RE_READ_SECONDS:
            return False
        before, self._read_at = self.value, now
        self.value = available_threads(self._root)
        return self.value != before


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
