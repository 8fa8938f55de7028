"""The engine process: `python -m paddock_runner.engine.child`. Started by `engine.process`.

Exit codes: 0 asked to stop or the front is gone, 1 the model or a decode failed (said in a Fatal frame). stderr: JSON
lines.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.link import FrameLink, LinkClosedError
from paddock_runner.engine.llama import LlamaBackend
from paddock_runner.engine.llama_log import LogCapture
from paddock_runner.engine.protocol import Fatal
from paddock_runner.engine.startup import serve
from paddock_runner.engine.step_note import StepNote

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = 500
_LAST_WORDS_SECONDS = 1.0


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    options = _parse(arguments)
    die_with_parent(options.parent)
    _be_the_first_victim()
    # Ctrl-C on a terminal reaches the whole process group; the front decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = LogCapture(options.log_level)
    link = FrameLink(socket.socket(fileno=options.fd))
    try:
        serve(LlamaBackend(options.model, log), link, StepNote.open(options.note))
    except LinkClosedError:
        return 0
    except BackendError as error:
        _say_last_words(link, str(error))
        return 1
    except Exception as error:
        # Without the exception's message: it may quote what it choked on, and that may be a prompt.
        log.write("error", f"{type(error).__name__} at {_place(error)}")
        _say_last_words(link, f"internal error: {type(error).__name__} at {_place(error)}")
        return 1
    return 0


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent dies, and exit now if it is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _be_the_first_victim() -> None:
    """When memory runs out the kernel should end the engine, which is restarted, not the front, which explains."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def _say_last_words(link: FrameLink, message: str) -> None:
    with suppress(LinkClosedError):
        link.send(Fatal(message))
        link.drain(_LAST_WORDS_SECONDS)


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m paddock_runner.engine.child", allow_abbrev=False)
    parser.add_argument("--fd", type=int, required=True, help="number of the inherited socket")
    parser.add_argument("--note", type=int, required=True, help="number of the inherited page for notes on steps")
    parser.add_argument(
        "--model", type=Path, action="append", required=True, help="GGUF file; given again for each part of a split one"
    )
    parser.add_argument("--parent", type=int, required=True, help="process id that must be alive")
    parser.add_argument("--log-level", default="info", help="least level written to stderr")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
