"""Wait for conditions with a deadline, read a child's lines through a thread. Used by tests that start programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import IO


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return when `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def until_sync(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """The same without an event loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def descendants(pid: int) -> set[int]:
    """All live processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{int(name)}/stat") as file:
            parents.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        children = [child for child in parents.get(todo.pop(), []) if alive(child)]
        found.update(children)
        todo.extend(children)
    return found


class Lines:
    """Lines of a pipe, read by a thread so that every wait has a deadline."""

    def __init__(self, pipe: IO[str]) -> None:
        self.seen: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in pipe:
                self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def next(self, seconds: float = 10.0) -> str | None:
        """The next line, None at the end; fails after `seconds`."""
        line = self._queue.get(timeout=seconds)
        if line is not None:
            self.seen.append(line)
        return line

    def find(self, accept: Callable[[str], bool], seconds: float = 30.0) -> str:
        """The next line that `accept`s; fails at the end of the output or after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            line = self.next(max(0.01, deadline - time.monotonic()))
            assert line is not None, f"the output ended; it was {self.seen}"
            if accept(line):
                return line

    def rest(self, seconds: float = 10.0) -> list[str]:
        """All lines up to the end of the output."""
        found = []
        while (line := self.next(seconds)) is not None:
            found.append(line)
        return found
