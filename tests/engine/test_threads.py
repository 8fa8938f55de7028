"""CPU quotas as Docker, Kubernetes and systemd write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paddock_runner.engine.threads import ThreadCount, available_threads, cgroup_paths, parse_v1, parse_v2

V1 = "4:memory:/m\n3:cpu,cpuacct:/docker/abc\n2:cpuset:/\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1.5),
        ("50000 100000", 0.5),
        ("", None),
        ("max", None),
        ("x y", None),
        ("0 0", None),
    ],
)
def test_v2(text: str, cpus: float | None) -> None:
    assert parse_v2(text) == cpus


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [("-1\n", "100000\n", None), ("200000", "100000", 2.0), ("", "", None), ("1000", "0", None)],
)
def test_v1(quota: str, period: str, cpus: float | None) -> None:
    assert parse_v1(quota, period) == cpus


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("0::/\n", ("/", None)),
        ("0::/kubepods.slice/pod1/c1\n", ("/kubepods.slice/pod1/c1", None)),
        (V1, (None, "/docker/abc")),
        (V1 + "0::/user\n", ("/user", "/docker/abc")),
        ("", (None, None)),
    ],
)
def test_paths(text: str, paths: tuple[str | None, str | None]) -> None:
    assert cgroup_paths(text) == paths


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/cpu.max": "50000 100000",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/docker/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        ({"proc/self/cgroup": "0::/../escape\n", "sys/fs/cgroup/cpu.max": "700000 100000"}, 7),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, files: dict[str, str], threads: int) -> None:
    for path, text in files.items():
        put(tmp_path, path, text)
    assert available_threads(tmp_path) == threads


def test_affinity_limits_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "800000 100000")
    assert available_threads(tmp_path) == 1


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("sys/fs/cgroup/cpu.max", "200000 100000", "500000 100000"),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000", "500000"),
    ],
)
def test_a_quota_that_changes_is_followed_unless_the_number_is_fixed(
    tmp_path: Path, path: str, before: str, after: str
) -> None:
    now = 0.0
    put(tmp_path, "proc/self/cgroup", "3:cpu:/\n0::/\n")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    put(tmp_path, path, before)
    following, fixed = (ThreadCount(number, tmp_path, lambda: now) for number in (0, 3))
    assert (following.value, fixed.value) == (2, 3)
    put(tmp_path, path, after)
    now = 1.0
    assert not following.changed()
    now = 2.0
    assert (following.changed(), following.value) == (True, 5)
    assert (fixed.changed(), fixed.value) == (False, 3)
    now = 4.0
    assert not following.changed()
