"""Convert one GGUF file in a process of its own: `python -m paddock_runner.engine.quantize IN OUT TYPE`.

Started by `commands.convert`: llama.cpp reads a hostile file natively, so its crash must not be the command's. stdout:
JSON lines `{"done","total"}` in tensors; stderr: JSON lines. Exit codes: 0 written, 1 refused (the last line says why:
`{"error"}`).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping

from paddock_runner.core.quantization import FILE_TYPES, parse_step
from paddock_runner.engine.llama_bindings import api
from paddock_runner.engine.llama_log import LogCapture
from paddock_runner.engine.threads import available_threads
from paddock_runner.parent import die_with_parent

MAX_BUFFER_BYTES = 1 << 30
"""Rows of one tensor that are held at once; llama.cpp's own bound is 8 GiB."""


class StepLog(LogCapture):
    """llama.cpp's log, of which the lines that count tensors become progress."""

    def _on_line(self, level: int, text: bytes | None, context: object) -> None:
        super()._on_line(level, text, context)
        step = parse_step((text or b"").decode(errors="replace"))
        if step is not None:
            say({"done": step[0], "total": step[1]})


def say(event: Mapping[str, object]) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def quantize(source: str, target: str, file_type: str, log: LogCapture) -> int:
    """Write `target`; returns llama.cpp's code, 0 for success."""
    log.install()
    api.llama_backend_init()
    parameters = api.llama_model_quantize_default_params()
    parameters.nthread = available_threads()
    parameters.ftype = FILE_TYPES[file_type]
    parameters.max_buf_size = MAX_BUFFER_BYTES
    return int(
        api.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)),
    )


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target, file_type = arguments
    log = StepLog("warning")
    code = quantize(source, target, file_type, log)
    if code != 0:
        say({"error": log.errors[-1] if log.errors else f"llama.cpp's quantizer ended with {code}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
