"""One child process in a session of its own: JSON events from stdout, stderr into a bounded log, a certain end.

Called by `supervisor` (programs that must stay alive) and `puller` (which ends). Everything happens on the event
loop's thread; one thread per child waits for its exit without reaping it, so that a signal can never meet a reused pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from paddock_operator.executors.local.logfile import LogFile

Event = dict[str, Any]
MAX_LINE = 64 * 1024
_DRAIN_SECONDS = 1.0
"""Grandchildren may hold the pipes after the child ended; what was written is read, then they are let go."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `name` names the log; `fds` are inherited; `stdin` is written and closed."""

    name: str
    argv: Sequence[str]
    fds: Sequence[int] = ()
    stdin: bytes = b""
    env: dict[str, str] = field(default_factory=dict)


class Process:
    """A running child, made by `spawn`. `returncode` is None while it lives; negative for a signal."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers: list[asyncio.Task[None]] = []

    async def _attach(self, command: Command, on_event: Callable[[Event], None], log: LogFile) -> None:
        loop = asyncio.get_running_loop()
        # The waiter first: whatever fails after this, the child is reaped.
        threading.Thread(target=_wait, args=(self.pid, loop, self._reap), daemon=True).start()
        # Both pipes before any job: a cancellation between them leaves none behind that nobody awaits.
        events, lines = await _reader(self._popen.stdout), await _reader(self._popen.stderr)
        jobs = [_read_events(*events, on_event), _copy(*lines, log)]
        if self._popen.stdin is not None:
            jobs.append(_feed(self._popen.stdin, command.stdin))
        self._readers = [asyncio.create_task(job) for job in jobs]

    def _reap(self) -> None:
        # The zombie still holds its process group: end what it left behind, then let the number go.
        self._signal_group(signal.SIGKILL)
        self._popen.wait()
        if not self._exited.done():
            self._exited.set_result(None)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.returncode

    async def wait(self) -> int:
        """Until it ended and its output was read; the exit status, negative for a signal."""
        await asyncio.shield(self._exited)
        if self._readers:
            _, late = await asyncio.wait(self._readers, timeout=_DRAIN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
        return self._popen.wait()

    def terminate(self) -> None:
        """Ask the program (not its children: it ends them itself) to finish."""
        if self.returncode is None:
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the program and its process group at once."""
        if self.returncode is None:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)

    async def stop(self, grace: float) -> int:
        """SIGTERM, at most `grace` seconds, SIGKILL; the exit status."""
        self.terminate()
        with contextlib.suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(self.wait(), grace)
        self.kill()
        return await self.wait()


async def spawn(command: Command, logs: Path, on_event: Callable[[Event], None]) -> Process:
    """Start `command`; its events go to `on_event`. Raises OSError when the program cannot be executed."""
    log = LogFile(logs / f"{command.name}.log")
    try:
        process = Process(_popen(command))
    except BaseException:
        log.close()
        raise
    try:
        await process._attach(command, on_event, log)
    except BaseException:
        process.kill()
        raise
    return process


def _popen(command: Command) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command.argv),
        stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=tuple(command.fds),
        env={**os.environ, **command.env, "PADDOCK_PARENT_PID": str(os.getpid())},
    )


def _wait(pid: int, loop: asyncio.AbstractEventLoop, reap: Callable[[], None]) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    # A loop that is closed has no use for the news any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(reap)


async def _reader(pipe: IO[bytes] | None) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    reader = asyncio.StreamReader(limit=MAX_LINE)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, transport


async def _feed(pipe: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:
        await asyncio.to_thread(pipe.write, data)


async def _read_events(
    reader: asyncio.StreamReader, transport: asyncio.BaseTransport, on_event: Callable[[Event], None]
) -> None:
    try:
        while line := await _line(reader):
            event = _event(line)
            if event is not None:
                on_event(event)
    finally:
        transport.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; an over-long one is skipped to its end and comes back as one that is no event."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        await reader.readexactly(error.consumed)
        return b"\n"


def _event(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None


async def _copy(reader: asyncio.StreamReader, transport: asyncio.BaseTransport, log: LogFile) -> None:
    try:
        while data := await reader.read(MAX_LINE):
            log.write(data)
    finally:
        log.close()
        transport.close()
