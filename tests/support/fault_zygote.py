"""Runs commands of the runner in children whose n-th system call fails; a program, started by `tests.support.faults`.

`tests/support/faults.c` is preloaded. Reads one JSON object per line, forks, and answers with one. What the commands
import is imported once, so a case costs some milliseconds.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any

from paddock_runner.__main__ import COMMANDS, main

SECONDS = 30
# Imported while they run, by these commands.
LATER = ("sources.fetch", "sources.select", "commands.bundle")
NOT_HERE = ("serve", "gateway", "export", "import")


class State(ctypes.Structure):
    """As in faults.c."""

    _fields_ = (("count", ctypes.c_long), ("fired", ctypes.c_long), ("where", ctypes.c_char * 1024))


def run(case: dict[str, Any], shim: ctypes.CDLL) -> int:
    """In the child: one command; returns its exit code."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(case["output"], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(case["environment"])
    # What hangs dies by the signal.
    signal.alarm(SECONDS)
    shim.fault_arm(os.fsencode(case["folder"]), case["classes"], case["error"], case["at"], case["stay"])
    try:
        return main(case["arguments"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


def served(case: dict[str, Any], shim: ctypes.CDLL, state: State) -> dict[str, Any]:
    child = os.fork()
    if child == 0:
        code = run(case, shim)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    return {
        "code": os.waitstatus_to_exitcode(status),
        "calls": state.count,
        "fired": state.fired,
        "where": state.where.decode(errors="replace"),
    }


def serve() -> None:
    for name in (*LATER, *(f"commands.{name.replace('-', '_')}" for name in COMMANDS if name not in NOT_HERE)):
        importlib.import_module(f"paddock_runner.{name}")
    gc.freeze()
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    shim.fault_state.restype = ctypes.POINTER(State)
    shim.fault_arm.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_int)
    state = shim.fault_state().contents
    for line in sys.stdin:
        print(json.dumps(served(json.loads(line), shim, state)), flush=True)


if __name__ == "__main__":
    serve()
