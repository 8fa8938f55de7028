"""Real commands whose n-th system call on their folder fails, or is their last. For tests of the store and its sources.

`faults.c` is compiled with the C compiler that the engine needs too and preloaded into a process that forks for each
case. Calls are counted in a clean run, then each can be met by each fault.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPACE, CHANGE, ANY = 1, 2, 4
"""Classes of calls: what needs room, what changes the disk, all."""
KILL = -1


@dataclass(frozen=True)
class Fault:
    """`error` is an errno or KILL; with `stay` every call of its class fails from the n-th on."""

    name: str
    error: int
    classes: int
    stay: bool = True


FAULTS = (
    Fault("disk-full", errno.ENOSPC, SPACE),
    Fault("read-only", errno.EROFS, CHANGE),
    Fault("disk-dies", errno.EIO, ANY),
    Fault("bad-sector", errno.EIO, ANY, stay=False),
    Fault("kill", KILL, CHANGE),
    Fault("quota", errno.EDQUOT, SPACE),
    Fault("full-once", errno.ENOSPC, SPACE, stay=False),
)


@dataclass(frozen=True)
class Ended:
    """What became of a command: exit code (negative: a signal), calls of the class, where the fault was met."""

    code: int
    calls: int
    fired: int
    where: str
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


class Zygote:
    """Runs cases, one after the other. `output` is a folder of its own."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process = process
        self._output = output

    def run(
        self,
        folder: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        fault: Fault | None = None,
        at: int = 0,
    ) -> Ended:
        """Run one command; its `at`-th call below `folder` meets `fault` (0: none does, they are only counted)."""
        case = {
            "folder": str(folder),
            "arguments": list(arguments),
            "environment": dict(environment),
            "output": str(self._output),
            "classes": fault.classes if fault else 0,
            "error": fault.error if fault else 0,
            "stay": int(fault.stay) if fault else 0,
            "at": at,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        texts = {name: (self._output / name).read_text(errors="replace") for name in ("stdout", "stderr")}
        return Ended(**answer, **texts)


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


@contextlib.contextmanager
def zygote(folder: Path) -> Iterator[Zygote]:
    """Compile and start; `folder` is for the library and for what commands print."""
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    command = [compiler() or "cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.fault_zygote"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LD_PRELOAD": str(library)},
    ) as process:
        try:
            yield Zygote(process, folder)
        finally:
            process.kill()
