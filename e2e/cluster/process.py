"""Long-lived processes that are known by a pid file: start, look, kill.

Called by `components.py` and `down.py`. A process belongs to a file only if it runs the program that the file names,
so a reused pid is never killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from e2e.cluster.api import wait
from e2e.cluster.layout import LOGS, PIDS

# The shell writes its own pid and becomes the program; setsid's child has no parent that must collect it.
LAUNCH = 'echo "$$" >"$1.new"; mv "$1.new" "$1"; shift; exec "$@"'


def pid_of(name: str) -> int | None:
    """The pid of a running process of that name, else None."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((PIDS / name).read_text())
        program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        if Path(program).name == name and runs(pid):
            return pid
    return None


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def log_of(name: str) -> Path:
    """Where a process writes its output."""
    return LOGS / f"{name}.log"


def start(name: str, command: list[str]) -> int:
    """Start a program detached from here, unless it runs; its pid. Raises RuntimeError with its words if it ends."""
    if found := pid_of(name):
        return found
    for folder in (PIDS, LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    (PIDS / name).unlink(missing_ok=True)
    with log_of(name).open("ab") as log:
        launch = ["setsid", "--fork", "sh", "-c", LAUNCH, "sh", str(PIDS / name), *command]
        subprocess.run(launch, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, cwd="/")
    wait(f"{name} starts", lambda: settled(name), 10, pause=0.01)
    pid = pid_of(name)
    if pid is None:
        raise RuntimeError(f"{name} ended at once: {tail(name)}")
    return pid


def settled(name: str) -> bool:
    """Whether a launched program has begun, or has ended already."""
    try:
        return pid_of(name) is not None or not runs(int((PIDS / name).read_text()))
    except FileNotFoundError:
        return False


def kill(name: str, how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal that ends the process, and wait until it has ended. Nothing happens if it does not run."""
    pid = pid_of(name)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)
    wait(f"{name} ends", lambda: not runs(pid), 30, pause=0.01)


def tail(name: str, size: int = 3000) -> str:
    """The end of a process's log."""
    try:
        return log_of(name).read_bytes()[-size:].decode(errors="replace")
    except OSError:
        return ""
