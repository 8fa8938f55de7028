"""Run the quantizer's process and follow it. Called by `commands.convert`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from paddock_runner.parent import VARIABLE
from paddock_runner.store.errors import InvalidModelError, NoSpaceError

_KILLED_BY_KERNEL = -9


def run_quantizer(source: Path, target: Path, file_type: str, progress: Callable[[int, int], None]) -> None:
    """Convert `source` to `target`; `progress` gets tensors done and in all.

    Raises InvalidModelError when llama.cpp refuses the file or dies of it, NoSpaceError when the disk is full.
    """
    command = [sys.executable, "-m", "paddock_runner.engine.quantize", str(source), str(target), file_type]
    environment = {**os.environ, VARIABLE: str(os.getpid())}
    refused = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, stdin=subprocess.DEVNULL) as child:
        try:
            for line in child.stdout or ():
                refused = _follow(line, progress) or refused
        finally:
            # Cancelled here, it has nobody to work for.
            if child.poll() is None and sys.exc_info()[0] is not None:
                child.kill()
    if child.returncode != 0:
        _explain(child.returncode, refused, target)


def _follow(line: bytes, progress: Callable[[int, int], None]) -> str:
    """Tell of the progress that `line` holds; returns its error, "" without one."""
    event = json.loads(line)
    if "done" in event:
        progress(event["done"], event["total"])
    return str(event.get("error", ""))


def _explain(code: int, refused: str, target: Path) -> None:
    stats = os.statvfs(target.parent)
    if stats.f_bavail * stats.f_frsize < 1 << 20:
        raise NoSpaceError(f"no space left while converting into {target.parent}; free some space")
    if code == _KILLED_BY_KERNEL:
        raise InvalidModelError("the converter was killed (out of memory?); give it more memory")
    raise InvalidModelError(f"llama.cpp cannot convert this model: {refused or f'it ended with {code}'}"[:1000])
