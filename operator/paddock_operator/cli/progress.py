"""Progress of `paddock create` on stderr: bars on a terminal, one line for each new status otherwise."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self


class Bars:
    """A context manager; `show` is called for each reply of the store."""

    def __init__(self) -> None:
        self._last = ""
        self._progress: Any = _rich() if sys.stderr.isatty() else None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, status: str, completed: int | None, total: int | None) -> None:
        """A status; with numbers it is a bar, in bytes."""
        if status != self._last:
            self._last, self._task = status, None
            if self._progress is None or total is None:
                self._line(status)
        if self._progress is None or total is None:
            return
        if self._task is None:
            self._task = self._progress.add_task(status, total=total)
        self._progress.update(self._task, completed=completed or 0)

    def _line(self, status: str) -> None:
        if self._progress is not None:
            self._progress.console.print(status, markup=False, highlight=False)
        else:
            sys.stderr.write(status + "\n")


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
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
