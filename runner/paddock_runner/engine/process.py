"""One life of the engine child: spawn it, exchange frames, pass its log on, end it. Called by `engine.client` only.

The child's stderr is a pipe of ours: its JSON lines become records of this process's logging, and whatever C code
printed while it died becomes the reason that people see.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paddock_runner.core.crash import Cause, LastStep, crash_cause
from paddock_runner.engine.codec import DecodeError
from paddock_runner.engine.procfs import memory_limit, oom_kills
from paddock_runner.engine.protocol import MAX_FRAME, FromEngine, Shutdown, ToEngine, decode, encode
from paddock_runner.engine.step_note import StepNote

logger = logging.getLogger("paddock_runner.engine")

# llama.cpp's threads wait for each other by spinning. OpenMP's default spins so long that one more busy process on the
# machine makes decoding 20 times slower; with this it is 4 times, and on a quiet machine nothing is lost.
_THREADING = {"GOMP_SPINCOUNT": "1000"}
# llama.cpp would start a debugger on itself when it aborts; that takes seconds and prints memory.
_ABORTS = {"GGML_NO_BACKTRACE": "1"}
_LINE_LIMIT = 64 * 1024
_TAIL_LINES = 8
_TAIL_CHARACTERS = 300


class EngineDiedError(Exception):
    """The child is gone or speaks nonsense. The message is fit for a status field: no prompt, no key."""


class EngineProcess:
    """A running child. Use `spawn`; then `send` and `receive`; `end` reaps it in every case.

    After `end`: `out_of_memory` if the kernel killed the child for memory, `cause`, `last` (what it was computing).
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        note: StepNote,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._note = note
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._killed = False
        self._oom_kills = oom_kills()
        self.out_of_memory = False
        self.cause: Cause = "error"
        self.last = LastStep()
        self._log_task = asyncio.create_task(self._forward_log())

    @classmethod
    async def spawn(cls, model_paths: Sequence[Path]) -> EngineProcess:
        """Start a child for a model file, or all parts of a split one.

        Raises OSError when the system refuses another process.
        """
        note, page = StepNote.create()
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *_command(theirs.fileno(), page, model_paths),
                pass_fds=(theirs.fileno(), page),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT,
                env={**_THREADING, **os.environ, **_ABORTS},
            )
        except BaseException:
            ours.close()
            note.close()
            raise
        finally:
            theirs.close()
            os.close(page)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer, note)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: ToEngine) -> None:
        """Queue one frame; a dead peer is no error here. Raises ValueError and UnicodeEncodeError as `encode` does."""
        self._writer.write(encode(message))

    async def flush(self) -> None:
        """Wait until few bytes are queued; a dead peer is no error here (`receive` tells)."""
        with suppress(ConnectionError):
            await self._writer.drain()

    async def receive(self) -> FromEngine:
        """The next frame. Raises EngineDiedError at the end of the stream or for a frame that is none."""
        try:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            if length > MAX_FRAME:
                raise DecodeError(f"a frame of {length} bytes exceeds the limit of {MAX_FRAME} bytes")
            message = decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EngineDiedError("the engine process ended") from error
        except DecodeError as error:
            raise EngineDiedError(f"the engine process sent a bad frame: {error}") from error
        if isinstance(message, ToEngine):
            raise EngineDiedError(f"the engine process sent {type(message).__name__}, which is not its to send")
        return message

    def kill(self) -> None:
        """SIGKILL; `receive` then reports the death."""
        # Not asyncio's own send_signal: it may reap the child, and then nobody learns how it ended.
        if self._process.returncode is None:
            self._killed = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def end(self, grace: float) -> str:
        """Ask it to stop, kill it after `grace` seconds, reap it. Returns how it ended, in words."""
        unasked = not self._killed
        if self._process.returncode is None:
            self.send(Shutdown())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace)
        self.kill()
        code = await self._process.wait()
        await self._log_task
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
        if not self._note.closed:  # an unloaded child is ended by two
            self.last = self._note.read()
            self._note.close()
        self.out_of_memory = unasked and code == -signal.SIGKILL and oom_kills() > self._oom_kills
        self.cause = crash_cause(code, stalled=not unasked, ended=self._killed, out_of_memory=self.out_of_memory)
        return _describe_memory() if self.out_of_memory else _describe_exit(code, " | ".join(self._tail))

    async def _forward_log(self) -> None:
        stream = self._process.stderr
        assert stream is not None  # noqa: S101  (stderr=PIPE above)
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line beyond the limit: its rest is read as further lines
                continue
            if not line:
                return
            self._log_line(line.decode(errors="replace").strip())

    def _log_line(self, line: str) -> None:
        level, message = parse_log_line(line)
        if level >= logging.WARNING and message:
            self._tail.append(message[:_TAIL_CHARACTERS])
        logger.log(level, "%s", message, extra={"engine_pid": self.pid})


def parse_log_line(line: str) -> tuple[int, str]:
    """(level, message) of a line of the child's stderr; one that is not our JSON came from C code as it failed."""
    with suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("message"), str):
            level = logging.getLevelNamesMapping().get(str(record.get("level", "")).upper(), logging.INFO)
            return level, record["message"]
    return logging.WARNING, line


def _command(fd: int, page: int, model_paths: Sequence[Path]) -> list[str]:
    level = logging.getLevelName(logger.getEffectiveLevel()).lower()
    options = ["--fd", str(fd), "--note", str(page), "--parent", str(os.getpid()), "--log-level", level]
    files = [text for path in model_paths for text in ("--model", str(path))]
    return [sys.executable, "-P", "-m", "paddock_runner.engine.child", *options, *files]


def _describe_exit(code: int, tail: str) -> str:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return f"the engine process {how}" + (f": {tail}" if tail else "")


def _describe_memory() -> str:
    limit = memory_limit()
    bound = f"its container's limit is {limit} bytes" if limit else "the whole machine had none left"
    return f"the engine was killed for memory (OOMKilled): {bound}; give the model more memory or a smaller context"
