"""Logs, the watched configuration file and the parent's death."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from paddock_runner import configfile, logs
from paddock_runner.configfile import ConfigFile


@pytest.fixture
def stream() -> Generator[io.StringIO]:
    root = logging.getLogger()
    before, level, text = root.handlers, root.level, io.StringIO()
    logs.setup("test", stream=text)
    yield text
    logging.captureWarnings(False)
    root.handlers, root.level = before, level


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object(stream: io.StringIO) -> None:
    logging.getLogger("a.b").warning("two\nlines \x1b[31m%s", "ä", extra={"model": "m", "seconds": 0.5, "what": [1]})
    (entry,) = lines(stream)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "warning",
        "logger": "a.b",
        "message": "two\nlines \x1b[31mä",
        "component": "test",
        "model": "m",
        "seconds": 0.5,
        "what": "[1]",
    }


def test_the_request_id_is_that_of_the_task(stream: io.StringIO) -> None:
    async def request(identity: str) -> None:
        logs.request_id.set(identity)
        await asyncio.sleep(0)
        logging.getLogger("x").info("work")

    async def both() -> None:
        await asyncio.gather(request("one"), request("two"))

    contextvars.copy_context().run(asyncio.run, both())
    logging.getLogger("x").info("outside")
    assert [entry.get("request_id") for entry in lines(stream)] == ["one", "two", None]


def test_nobody_fills_the_disk_by_one_field(stream: io.StringIO) -> None:
    logging.getLogger("x").info("m" * 100_000, extra={"name_": "v" * 100_000})
    assert len(stream.getvalue()) < 5_000
    assert lines(stream)[0]["message"].endswith("(100000 characters)")


def test_a_traceback_is_one_field_and_debug_is_silent(stream: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("x").exception("failed")
    logging.getLogger("x").debug("nothing")
    (entry,) = lines(stream)
    assert "ValueError: broken" in entry["traceback"]


def number(body: bytes) -> int:
    return int(body)


def put(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def test_a_configuration_file_follows_and_keeps_the_last_good(tmp_path: Path) -> None:
    path = tmp_path / "c"
    seen: list[int] = []
    problems: list[str] = []
    put(path, "1")
    file = ConfigFile(path, number, on_change=seen.append, on_error=problems.append)
    assert (file.value, file.sha256) == (1, hashlib.sha256(b"1").hexdigest())
    assert file.poll() is False
    put(path, "2")
    assert file.poll() is True
    put(path, "x")
    assert (file.poll(), file.poll(), file.value) == (False, False, 2)
    path.unlink()
    assert (file.poll(), file.value) == (False, 2)
    put(path, "2")
    assert file.poll() is False
    put(path, "3")
    assert file.poll() is True
    assert (file.value, file.sha256, seen, len(problems)) == (3, hashlib.sha256(b"3").hexdigest(), [2, 3], 2)


def test_a_configuration_file_must_be_good_at_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ConfigFile(tmp_path / "none", number)
    put(tmp_path / "bad", "x")
    with pytest.raises(ValueError, match="invalid literal"):
        ConfigFile(tmp_path / "bad", number)


def test_a_configuration_file_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configfile, "MAX_BYTES", 3)
    put(tmp_path / "big", "1234")
    with pytest.raises(ValueError, match="larger than 3 bytes"):
        ConfigFile(tmp_path / "big", number)


async def test_the_watch_notices_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "c"
    put(path, "1")
    file = ConfigFile(path, number)
    watch = asyncio.create_task(file.watch())
    put(path, "2")
    async with asyncio.timeout(1.0):
        while file.value == 1:
            await asyncio.sleep(0.01)
    watch.cancel()


CHILD = """
from paddock_runner.parent import die_with_parent
import sys, time
die_with_parent()
print("up", flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
environment = {**os.environ, "PADDOCK_PARENT_PID": str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment)
print(child.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_dies_with_its_parent() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "up\n"
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
        end = time.monotonic() + 5
        while alive(pid) and time.monotonic() < end:
            time.sleep(0.01)
        assert not alive(pid)


@pytest.mark.parametrize(
    ("value", "code", "words"), [("x", 1, "must be a process id"), ("1", 1, "is gone"), ("", 0, "")]
)
def test_a_parent_that_is_not_there(value: str, code: int, words: str) -> None:
    if value == "1" and os.getpid() == 1:
        pytest.skip("the test is process 1 itself")
    program = CHILD.replace("time.sleep(60)", "")
    environment = {**os.environ, "PADDOCK_PARENT_PID": value}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, words in result.stderr) == (code, True)
