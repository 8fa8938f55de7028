"""Progress on stderr: on a terminal a bar for each blob, with bytes, speed and time left; else a line per state.

Called by the verbs that move bytes.
"""

from __future__ import annotations

import re
import sys
from types import TracebackType
from typing import Any, Self

from paddock_operator.executors.local.plain import safe

_DIGEST = re.compile(r"sha256:([0-9a-f]{12})[0-9a-f]{52}")


class Bars:
    """A context manager; `show` is called for each state. Nothing else may write to the terminal meanwhile."""

    def __init__(self) -> None:
        self._last = ""
        self._progress: Any = _rich() if sys.stderr.isatty() else None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def reply(self, reply: dict[str, Any]) -> None:
        """Show a reply in Ollama's form: `status`, for a bar with `completed` and `total`."""
        total = reply.get("total")
        status = str(reply.get("status", ""))
        self.show(_DIGEST.sub(r"\1", status) if total is not None else status, reply.get("completed"), total)

    def show(self, status: str, completed: int | None = None, total: int | None = None) -> None:
        """A state; with numbers (bytes) it is a bar that lives as long as the progress does."""
        status = safe(status)
        if total is None:
            if status != self._last:
                self._line(status)
            self._last = status
        elif self._progress is None:
            if status not in self._tasks:
                self._line(status)
            self._tasks[status] = None
        else:
            self._bar(status, completed or 0, total)

    def _bar(self, status: str, completed: int, total: int) -> None:
        if status not in self._tasks:
            # Begun with what is there already, so that a resumed download shows no speed that it does not have.
            self._tasks[status] = self._progress.add_task(status, total=total, completed=completed)
        self._progress.update(self._tasks[status], completed=completed, total=total)

    def _line(self, status: str) -> None:
        if self._progress is not None:
            self._progress.console.print(status, markup=False, highlight=False)
        else:
            sys.stderr.write(status + "\n")
            sys.stderr.flush()


def _rich() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # stdout stays what it is: it may be a file, and holds the results.
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False)
