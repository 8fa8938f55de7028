"""An engine that the kernel kills for memory is told apart from every other death."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf
from tests.support.serving import serving
from tests.support.tiny_cache import tiny_model as cached
from tests.support.waiting import alive, descendants, until_sync

from paddock_runner.engine import process as process_module
from paddock_runner.engine.process import EngineProcess
from paddock_runner.engine.procfs import memory_limit, oom_kills

LIMIT = 600 << 20


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "kills", "limit"),
    [
        ({}, 0, None),
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": "low 0\nmax 9\noom 3\noom_kill 2\n",
             "sys/fs/cgroup/memory.max": "1073741824\n"},
            2, 1 << 30,
        ),
        (
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.events": "oom_kill 1\n",
             "sys/fs/cgroup/a/memory.events": "oom_kill 7\n", "sys/fs/cgroup/a/b/memory.max": "max\n",
             "sys/fs/cgroup/a/memory.max": "2048\n"},
            1, 2048,
        ),
        (
            {"proc/self/cgroup": "5:cpu:/x\n4:memory:/kubepods/x\n0::/y\n",
             "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
             "sys/fs/cgroup/memory/memory.limit_in_bytes": "4096\n"},
            4, 4096,
        ),
        (
            {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\n",
             "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"},
            0, None,
        ),
        ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.events": "oom_kill many\n"}, 0, None),
    ],
)  # fmt: skip
def test_what_the_cgroup_tells(tmp_path: Path, files: dict[str, str], kills: int, limit: int | None) -> None:
    root = tree(tmp_path, files)
    assert (oom_kills(root), memory_limit(root)) == (kills, limit)


@pytest.mark.parametrize(("counts", "killer", "expected"), [((3, 4), "other", True), ((3, 3), "other", False),
                                                            ((3, 4), "we", False)])  # fmt: skip
async def test_only_a_kill_that_we_did_not_send_and_the_kernel_counted(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int], killer: str, expected: bool
) -> None:
    told = iter(counts)
    monkeypatch.setattr(process_module, "oom_kills", lambda: next(told, counts[-1]))
    monkeypatch.setattr(process_module, "memory_limit", lambda: 12345)
    process = await EngineProcess.spawn([tiny_model])
    process.kill() if killer == "we" else os.kill(process.pid, 9)
    how = await asyncio.wait_for(process.end(5), 20)
    assert process.out_of_memory is expected
    assert how.startswith("the engine was killed for memory (OOMKilled): ") is expected
    assert ("limit is 12345 bytes" in how) is expected


@pytest.fixture
def small_cgroup() -> Iterator[list[str]]:
    """Words that run a command in a memory cgroup of its own, 600 MiB small."""
    folder, limit = _new_cgroup()
    try:
        limit.write_text(str(LIMIT))
        enter = f'echo $$ > {folder}/cgroup.procs && exec "$@"'
        if subprocess.run(["sh", "-c", enter, "sh", "true"], capture_output=True, check=False).returncode != 0:
            pytest.skip("a process cannot enter a memory cgroup here")
        yield ["sh", "-c", enter, "sh"]
    finally:
        until_sync(lambda: not (folder / "cgroup.procs").read_text().strip(), 10)
        folder.rmdir()


def _new_cgroup() -> tuple[Path, Path]:
    for mount, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = Path("/sys/fs/cgroup") / mount / f"paddock-test-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            if (folder / name).exists():
                return folder, folder / name
            folder.rmdir()
    pytest.skip("memory cgroups cannot be made here")


@pytest.mark.e2e
def test_a_real_kill_for_memory_is_told(tmp_path: Path, small_cgroup: list[str]) -> None:
    model = cached(make_gguf(tmp_path / "tiny.gguf", layers=2, kv_heads=2).read_bytes())
    (tmp_path / "models").mkdir()
    model.pull_into(tmp_path / "models")
    cells = 4 << 20  # 2 GiB of KV cache
    sizes = {
        "mode": "generate", "contextLength": cells, "slots": 1, "cells": cells, "sequences": 1, "batch": 512,
        "prefixBytes": 0, "typeK": "f16",
        "typeV": "f16", "flashAttention": "auto", "mmap": True, "mlock": False, "gpuLayers": 0, "threads": 1,
    }  # fmt: skip
    with serving(tmp_path, (tmp_path / "models", model.digest), before=small_cgroup, engine=sizes) as at:
        lines = at.states(60, until=lambda event: event["oomKills"] > 0)
        assert lines[-1]["reason"].startswith("the engine was killed for memory (OOMKilled): ")
        assert f"limit is {LIMIT} bytes" in lines[-1]["reason"]
        assert at.ready()["reason"].startswith("the engine was killed for memory (OOMKilled): ")
        assert at.client.get("/healthz").status_code == 200
        children = descendants(at.process.pid)
    until_sync(lambda: not any(map(alive, children)), 10)
