"""Real children: events, logs, ends, and nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.support.waiting import alive, until

from paddock_operator.executors.local.logfile import LogFile
from paddock_operator.executors.local.process import Command, Event, Process, spawn


def command(code: str, **more: object) -> Command:
    return Command("child", [sys.executable, "-c", code], **more)  # type: ignore[arg-type]


async def start(code: str, logs: Path, events: list[Event] | None = None, **more: object) -> Process:
    return await spawn(command(code, **more), logs, (events if events is not None else []).append)


async def test_events_are_json_objects_with_a_name_and_the_rest_is_ignored(tmp_path: Path) -> None:
    events: list[Event] = []
    code = r"""
print('{"event":"a","n":1}'); print("noise"); print('[1]'); print('{"n":2}'); print('{"event":3}')
print('{"event":"long","x":"' + "x"*200000 + '"}'); print('{"event":"b"}', end="")
"""
    assert await (await start(code, tmp_path, events)).wait() == 0
    assert events == [{"event": "a", "n": 1}, {"event": "b"}]


async def test_stderr_goes_to_the_log(tmp_path: Path) -> None:
    await (await start("import sys; sys.stderr.write('first\\n')", tmp_path)).wait()
    await (await start("import sys; sys.stderr.write('second\\n')", tmp_path)).wait()
    assert (tmp_path / "child.log").read_text() == "first\nsecond\n"
    assert (tmp_path / "child.log").stat().st_mode & 0o777 == 0o600


def test_a_log_is_bounded(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", 100)
    for number in range(50):
        log.write(b"line %03d\n" % number)
    log.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"a.log", "a.log.1"}
    assert max(sizes.values()) <= 100
    assert (tmp_path / "a.log").read_text().endswith("line 049\n")


async def test_the_child_knows_its_parent_its_session_and_its_input(tmp_path: Path) -> None:
    events: list[Event] = []
    code = """
import os, sys, json
print(json.dumps({"event": "e", "parent": os.environ["PADDOCK_PARENT_PID"], "extra": os.environ["EXTRA"],
                  "leads": os.getsid(0) == os.getpid(), "stdin": len(sys.stdin.read())}))
"""
    await (await start(code, tmp_path, events, stdin=b"x" * 300_000, env={"EXTRA": "1"})).wait()
    assert events[0]["stdin"] == 300_000
    assert (events[0]["parent"], events[0]["extra"], events[0]["leads"]) == (str(os.getpid()), "1", True)


async def test_a_child_that_does_not_read_its_input_is_no_error(tmp_path: Path) -> None:
    assert await (await start("pass", tmp_path, stdin=b"x" * 1_000_000)).wait() == 0


async def test_descriptors_are_inherited_by_number(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    await (await start(f"import os; os.write({writing}, b'hello')", tmp_path, fds=(writing,))).wait()
    os.close(writing)
    assert os.read(reading, 10) == b"hello"
    os.close(reading)


async def test_exit_status_and_signals(tmp_path: Path) -> None:
    assert await (await start("raise SystemExit(7)", tmp_path)).wait() == 7
    child = await start("import time; time.sleep(60)", tmp_path)
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    child.kill()
    child.terminate()


async def test_a_program_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await spawn(Command("x", ["/nonexistent/program"]), tmp_path, lambda event: None)


async def test_stop_asks_first_and_kills_after_the_grace(tmp_path: Path) -> None:
    code = 'import signal,time\nsignal.signal(15, {})\nprint(\'{{"event":"up"}}\', flush=True)\ntime.sleep(60)'
    polite, deaf = code.format("lambda *a: exit(3)"), code.format("signal.SIG_IGN")
    for code, grace, status in ((polite, 10.0, 3), (deaf, 0.2, -signal.SIGKILL)):
        events: list[Event] = []
        child = await start(code, tmp_path, events)
        await until(lambda events=events: events)
        began = time.monotonic()
        assert await child.stop(grace) == status
        assert time.monotonic() - began < 5


GRANDCHILD = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(json.dumps({"event": "up", "pid": child.pid}), flush=True)
time.sleep(60 if sys.argv[1:] == ["stay"] else 0)
"""


async def test_what_a_child_leaves_behind_dies_with_it(tmp_path: Path) -> None:
    """The grandchild holds the pipes open; the wait ends all the same."""
    events: list[Event] = []
    child = await start(GRANDCHILD, tmp_path, events)
    began = time.monotonic()
    assert await child.wait() == 0
    assert time.monotonic() - began < 5
    await until(lambda: not alive(events[0]["pid"]))


async def test_kill_ends_the_whole_group(tmp_path: Path) -> None:
    events: list[Event] = []
    argv = [sys.executable, "-c", GRANDCHILD, "stay"]
    child = await spawn(Command("child", argv), tmp_path, events.append)
    await until(lambda: events)
    child.kill()
    await child.wait()
    await until(lambda: not alive(events[0]["pid"]))
