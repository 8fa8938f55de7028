"""A command of `paddock-runner` as a child: its JSON lines, its failure as one error, its end with ours.

Called by every verb that works on the cache. The operator side never touches model bytes; a child does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from paddock_operator.cli.advice import advice
from paddock_operator.cli.errors import BAD_USAGE, FAILED, INTERRUPTED, RETRY, CliError, RunnerError
from paddock_operator.executors.local.home import Home
from paddock_operator.executors.local.plain import safe

PARENT = "PADDOCK_PARENT_PID"
END_SECONDS = 10.0
"""How long a child may take to end after SIGTERM."""
_UNWELL = ("damaged", "incomplete")
"""Last statuses that explain exit code 1: each problem was told before."""

Reply = dict[str, Any]
Show = Callable[[Reply], None]


@dataclass(frozen=True, slots=True)
class Call:
    """One command on `home`. `given` is its standard input, None leaves it ours (`stdin`) or empty.

    `interrupted`: what Ctrl-C leaves behind, for people. `raw`: its lines go to stdout as they are. `data_out`: its
    stdout is ours, for data, and its lines come on stderr. `logs_out`: its logs go to our stderr.
    """

    home: Home
    command: str
    words: tuple[str, ...]
    given: bytes | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    interrupted: str = ""
    raw: bool = False
    stdin: bool = False
    data_out: bool = False
    logs_out: bool = False

    @property
    def argv(self) -> list[str]:
        program = [sys.executable, "-m", "paddock_runner", *self.command.split()]
        # `store` takes the folder before its own verb.
        place = 4 if self.command.startswith("store ") else len(program)
        return [*program[:place], "--models", str(self.home.models), *program[place:], *self.words]


def run(call: Call, show: Show) -> int:
    """Run it, showing each line; returns 0, 1 if lines told of problems, or the code of a child that logs to stderr.

    Raises RunnerError with the child's own last error and what to do, CliError (130) after Ctrl-C.
    """
    # Logs go to a file: a pipe that nobody reads would block a child that has much to say.
    with tempfile.TemporaryFile() as logs, _started(call, logs) as child:
        try:
            last = _follow(child, call, show)
            code = child.wait()
        except KeyboardInterrupt:
            _end(child)
            if call.raw and child.stdout is not None:
                # What it had to say about its end.
                sys.stdout.write(child.stdout.read().decode(errors="replace"))
            if not call.interrupted:
                raise
            raise CliError(f"interrupted; {call.interrupted}", INTERRUPTED) from None
        except BaseException:
            _end(child)
            raise
        return _judged(call, last, code, logs)


def one(call: Call) -> Reply:
    """The one object that a command prints. Raises what `run` raises."""
    found: list[Reply] = []
    run(call, found.append)
    return found[-1] if found else {}


def _started(call: Call, logs: IO[bytes]) -> subprocess.Popen[bytes]:
    stdin = subprocess.PIPE if call.given is not None else None if call.stdin else subprocess.DEVNULL
    stderr = subprocess.PIPE if call.data_out else None if call.logs_out else logs
    child = subprocess.Popen(
        call.argv,
        stdin=stdin,
        stdout=None if call.data_out else subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **call.environment, PARENT: str(os.getpid())},
        # Out of reach of the terminal's Ctrl-C: we end it, in the way that it knows.
        process_group=0,
    )
    if child.stdin is not None:
        # A child that died already says more by its exit code.
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(call.given or b"")
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()


def _follow(child: subprocess.Popen[bytes], call: Call, show: Show) -> Reply:
    """Show every line but an error at the end; returns the last line."""
    last: Reply = {}
    for line in (child.stderr if call.data_out else child.stdout) or ():
        reply = _parsed(line, call)
        if reply is None:
            continue
        if call.raw:
            sys.stdout.write(line.decode(errors="replace"))
            sys.stdout.flush()
        if _error(last) is not None:
            show(last)
        if _error(reply) is None:
            show(reply)
        last = reply
    return last


def _parsed(line: bytes, call: Call) -> Reply | None:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        # Where lines and logs share a pipe, those that are not for us have other members.
        if isinstance(found, dict) and (not call.data_out or {"status", "error"} & found.keys()):
            return found
    if call.data_out:
        return None
    raise CliError(f"paddock-runner {call.command} wrote something that is no JSON object")


def _error(reply: Reply) -> tuple[str, str] | None:
    """Message and reason of a line that tells of a failure, in either of the two forms."""
    if reply.get("event") == "error":
        return str(reply.get("message", "")), str(reply.get("reason", ""))
    return (str(reply["error"]), str(reply.get("reason", ""))) if "error" in reply else None


def _judged(call: Call, last: Reply, code: int, logs: IO[bytes]) -> int:
    if failure := _error(last):
        message, reason = failure
        raise RunnerError(
            safe(message) + advice(call.command, reason, retry=code == RETRY),
            RETRY if code == RETRY else FAILED,
            reason,
        )
    if code == 0 or last.get("status") in _UNWELL:
        return min(code, FAILED)
    if call.logs_out and code > 0:
        # Its own words stand on stderr already.
        return code
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    raise RunnerError(
        _last_line(logs) or f"paddock-runner {call.command} {how}", BAD_USAGE if code == BAD_USAGE else FAILED
    )


def _last_line(logs: IO[bytes]) -> str:
    size_now = logs.seek(0, os.SEEK_END)
    logs.seek(max(0, size_now - 4096))
    lines = logs.read().decode(errors="replace").strip().splitlines()
    return safe(lines[-1]) if lines else ""
