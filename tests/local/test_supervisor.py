"""Programs that must stay alive: crashes, back-off, restarts, stops."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.waiting import alive, until

from paddock_operator.executors.local.backoff import Backoff
from paddock_operator.executors.local.process import Command
from paddock_operator.executors.local.supervisor import Supervisor

UP = """
import os, time
print('{"event":"listening","address":"127.0.0.1:%d"}' % os.getpid(), flush=True)
time.sleep(60)
"""


def supervise(code: str, logs: Path, on_change: Callable[[], None] = lambda: None, **more: object) -> Supervisor:
    return Supervisor(Command("child", [sys.executable, "-c", code]), logs, on_change, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lives", "delays"),
    [
        ([0, 0, 0, 0], [0.2, 0.4, 0.8, 1.6]),
        ([0] * 9, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]),
        ([0, 0, 25, 0], [0.2, 0.4, 0.2, 0.4]),
        ([0] * 10_000, None),
    ],
)
def test_backoff(lives: list[float], delays: list[float] | None) -> None:
    backoff = Backoff()
    found = [backoff.delay(lived) for lived in lives]
    assert found == delays if delays is not None else found[-1] == 30.0


async def test_address_is_known_while_it_lives(tmp_path: Path) -> None:
    changes: list[str] = []
    child = supervise(UP, tmp_path, lambda: changes.append(child.address))
    await until(lambda: child.address)
    assert child.address == f"127.0.0.1:{child.pid}"
    assert changes[-1] == child.address
    await child.stop(5)
    assert (child.address, child.pid, child.restarts) == ("", 0, 0)


async def test_a_killed_program_comes_back_with_a_new_address(tmp_path: Path) -> None:
    child = supervise(UP, tmp_path)
    await until(lambda: child.address)
    first, address = child.pid, child.address
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.address not in ("", address))
    assert child.pid != first
    assert (child.restarts, child.last_exit) == (1, -signal.SIGKILL)
    await child.stop(5)


async def test_a_program_that_always_crashes_is_started_with_growing_pauses(tmp_path: Path) -> None:
    starts: list[float] = []
    child = supervise(
        'print(\'{"event":"tick"}\')',
        tmp_path,
        on_event=lambda event: starts.append(time.monotonic()),
        backoff=Backoff(first=0.1, limit=0.4),
    )
    await until(lambda: len(starts) >= 5)
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps[0] >= 0.1
    assert gaps[1] >= 0.2
    assert gaps[2] >= 0.4
    assert child.last_exit == 0, "a program that should stay alive may not end with success either"
    began = time.monotonic()
    await child.stop(5)
    assert time.monotonic() - began < 2, "a stop does not wait for the next start"


async def test_a_program_that_is_missing_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "program"
    child = Supervisor(Command("child", [str(program)]), tmp_path, lambda: None, backoff=Backoff(first=0.05, limit=0.1))
    await until(lambda: child.last_exit == 127)
    program.write_text(f"#!{sys.executable}\n{UP}")
    program.chmod(0o755)
    await until(lambda: child.address)
    await child.stop(5)


async def test_kill_ends_it_for_good(tmp_path: Path) -> None:
    child = supervise(UP, tmp_path)
    await until(lambda: child.address)
    pid = child.pid
    child.kill()
    await until(lambda: not alive(pid))
    await child.stop(0)
    assert child.restarts == 0


async def test_restart_gives_it_another_life(tmp_path: Path) -> None:
    child = supervise(UP, tmp_path)
    await until(lambda: child.address)
    first = child.pid
    child.restart()
    await until(lambda: child.address and child.pid != first)
    await child.stop(5)


async def test_a_stop_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    child = supervise(UP, tmp_path)
    await child.stop(1)
    assert child.pid == 0
