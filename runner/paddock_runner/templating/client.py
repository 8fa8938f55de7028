"""The front's handle on its template worker: render a chat within a deadline, whatever the template does.

Called by `api.prompting`; asyncio, one event loop. One worker process lives as long as it behaves; at the deadline it
is killed, and the next rendering starts another. Renderings run one after the other: each takes about a millisecond.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from paddock_runner.core.generation import GenerationError, QueueFullError
from paddock_runner.templating import frames

TemplateFailure = Literal["raised", "limit", "broken"]
MAX_WAITING = 64
START_SECONDS = 10.0
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")


class ChatTemplateError(GenerationError):
    """The model's chat template gave no prompt. `kind`: it refused (raised), ran out of bounds (limit) or is broken."""

    def __init__(self, kind: TemplateFailure, message: str) -> None:
        super().__init__(f"template: the model's chat template gave no prompt: {message}")
        self.kind = kind


class TemplateWorker:
    """Use `render`; `close` at the end. `deadline` in seconds bounds one rendering."""

    def __init__(self, deadline: float = frames.DEADLINE_SECONDS) -> None:
        self._deadline = deadline
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[str]] = set()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The worker's process id, None while there is none."""
        return self._process.pid if self._process else None

    async def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """The rendered text, at most 4 MiB. Raises ChatTemplateError, and QueueFullError when 64 wait."""
        if len(self._running) >= MAX_WAITING:
            raise QueueFullError(len(self._running), self._deadline)
        # A caller that gives up must not leave half an exchange in the pipe, so the exchange has a task of its own.
        task = asyncio.create_task(self._render(template, dict(variables)))
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[str]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: the caller may have left

    async def start(self) -> None:
        """Start the worker if none runs, so that the first chat need not wait for it."""
        async with self._turn:
            await self._started()

    async def close(self) -> None:
        """End the worker."""
        for task in self._running:
            task.cancel()
        if self._process is not None:
            await self._end(self._process)

    async def _render(self, template: str, variables: dict[str, Any]) -> str:
        try:
            request = frames.pack({"template": template, "variables": variables}, frames.MAX_REQUEST)
        except ValueError as error:
            raise ChatTemplateError("limit", str(error)) from None
        async with self._turn:
            reply = await self._exchange(await self._started(), request)
        text = reply.get("text")
        if isinstance(text, str):
            return text
        raise ChatTemplateError(_kind(reply.get("kind")), str(reply.get("error")))

    async def _exchange(self, process: asyncio.subprocess.Process, request: bytes) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._deadline):
                return await _ask(process, request)
        except TimeoutError:
            message = f"it took longer than {self._deadline:g} s"
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            message = "its process ended"
        except asyncio.CancelledError:
            await self._end(process)
            raise
        await self._end(process)
        raise ChatTemplateError("limit", message)

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await _spawn()
            self.starts += 1
            try:
                async with asyncio.timeout(START_SECONDS):
                    await _ask(self._process, frames.pack({"template": "", "variables": {}}, frames.MAX_REQUEST))
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
                await self._end(self._process)
                raise ChatTemplateError("broken", "its process could not be started") from error
        return self._process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._process = None
        with suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


async def _spawn() -> asyncio.subprocess.Process:
    # A session of its own: Ctrl-C in a terminal must reach the front only, which then drains.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "paddock_runner.templating.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1024 * 1024,
        start_new_session=True,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    )


async def _ask(process: asyncio.subprocess.Process, request: bytes) -> dict[str, Any]:
    writer, reader = process.stdin, process.stdout
    if writer is None or reader is None:
        raise ConnectionError("the worker has no pipes")
    writer.write(request)
    await writer.drain()
    length = int.from_bytes(await reader.readexactly(frames.LENGTH_BYTES), "big")
    if length > frames.MAX_REPLY:
        raise ValueError("the reply is too long")
    return frames.unpack(await reader.readexactly(length))


def _kind(value: object) -> TemplateFailure:
    return "raised" if value == "raised" else "limit" if value == "limit" else "broken"
