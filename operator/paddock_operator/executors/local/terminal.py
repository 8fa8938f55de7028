"""The live view of `paddock up` on a terminal: progress bars and a status table, drawn by rich on stderr.

Made by `up` when stderr is a terminal and the output is text. stdout stays as it is without a terminal.
"""

from __future__ import annotations

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from paddock_operator.core.resources import Ref
from paddock_operator.executors.local.plain import safe
from paddock_operator.executors.local.report import Condition, TextReporter

_COLOURS = {"True": "green", "False": "yellow", "Unknown": "dim"}


class TerminalReporter(TextReporter):
    """Text on stdout, a live region on stderr."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[Ref, TaskID] = {}
        self._rows: dict[Ref, Condition] = {}
        self._live = Live(self._view(), console=self._console, refresh_per_second=8, redirect_stdout=False)
        self._live.start()

    def _view(self) -> Group:
        return Group(self._progress, self._table()) if self._tasks else Group(self._table())

    def _table(self) -> Table:
        table = Table("KIND", "NAME", "READY", "REASON", "MESSAGE", box=None, pad_edge=False)
        for ref, condition in sorted(self._rows.items()):
            status = str(condition.get("status", ""))
            colour = _COLOURS.get(status, "dim")
            # Text, not markup: messages hold names that users chose.
            words = [Text(safe(str(condition.get(name, "")))) for name in ("reason", "message")]
            table.add_row(ref.kind, f"{ref.namespace}/{ref.name}", Text(status, style=colour), *words)
        return table

    def progress(self, ref: Ref, digest: str, completed: int, total: int, bytes_per_second: float) -> None:
        if ref not in self._tasks:
            self._tasks[ref] = self._progress.add_task(f"{ref.namespace}/{ref.name}", total=total or None)
        self._progress.update(self._tasks[ref], completed=completed, total=total or None)
        if total and completed >= total:
            self._progress.remove_task(self._tasks.pop(ref))
        self._live.update(self._view())

    def ready(self, ref: Ref, url: str, first: bool) -> None:
        self._live.stop()
        super().ready(ref, url, first)
        self._live.start()

    def key(self, name: str, secret: str) -> None:
        self._live.stop()
        super().key(name, secret)
        self._live.start()

    def forget(self, ref: Ref) -> None:
        super().forget(ref)
        self._rows.pop(ref, None)
        if ref in self._tasks:
            self._progress.remove_task(self._tasks.pop(ref))
        self._live.update(self._view())

    def condition(self, ref: Ref, condition: Condition) -> None:
        if condition.get("type") == "Ready":
            self._rows[ref] = condition
            self._live.update(self._view())
        elif line := self.line(ref, condition):
            self.note(line)

    def note(self, message: str) -> None:
        self._console.print(Text(safe(message)))

    def close(self) -> None:
        self._live.stop()
