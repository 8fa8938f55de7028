"""A program with a configuration file: written atomically, supervised, and asked for its readiness.

Called by `model` (the runner) and `endpoint` (the gateway).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddock_operator.core.identity import canonical_json, config_hash
from paddock_operator.executors.local import atomic
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.probe import Readiness, readyz
from paddock_operator.executors.local.process import Command
from paddock_operator.executors.local.supervisor import Supervisor

_EAGER_SECONDS = 0.1
_CALM_SECONDS = 1.0
SILENCE_SECONDS = 30.0
"""A front that lives but has not answered /readyz for this long hangs: it is killed and starts again."""


class Program:
    """`config` is what it should run with, `readiness` what it answered last (empty while it does not live)."""

    def __init__(
        self,
        context: Context,
        name: str,
        config_path: Path,
        arguments: Sequence[str],
        config: Mapping[str, Any],
        on_change: Callable[[], None],
        fds: Sequence[int] = (),
    ) -> None:
        self.config: Mapping[str, Any] = {}
        self.readiness = Readiness()
        self._path = config_path
        self._on_change = on_change
        self._wake = asyncio.Event()
        self._answered = time.monotonic()
        self.configure(config)
        argv = [*context.runner, *arguments, "--config", str(config_path)]
        self._supervisor = Supervisor(Command(name, argv, fds), context.home.logs, self._changed)
        self._prober = asyncio.create_task(self._probe())

    def configure(self, config: Mapping[str, Any]) -> None:
        """Put `config` in force; the program re-reads its file."""
        self.config = config
        self._wanted = config_hash(config)
        atomic.write(self._path, canonical_json(config))
        self._wake.set()

    def _changed(self) -> None:
        self._answered = time.monotonic()
        self._wake.set()
        self._on_change()

    @property
    def address(self) -> str:
        return self._supervisor.address

    @property
    def pid(self) -> int:
        return self._supervisor.pid

    @property
    def restarts(self) -> int:
        """Lives of the process after its first, and restarts that the program reports of its own children."""
        return self._supervisor.restarts + self.readiness.number("restarts")

    @property
    def crashed(self) -> bool:
        """It does not live and waits for its next start."""
        return not self.pid and self._supervisor.last_exit is not None

    @property
    def last_exit(self) -> int | None:
        return self._supervisor.last_exit

    @property
    def up_to_date(self) -> bool:
        """It is ready with exactly the configuration that it should have."""
        return self.readiness.ready and self.readiness.text("config") == self._wanted

    async def _probe(self) -> None:
        while True:
            self._wake.clear()
            await self._ask()
            try:
                await asyncio.wait_for(self._wake.wait(), _CALM_SECONDS if self.up_to_date else _EAGER_SECONDS)
                # One more look soon, not at once: a program needs a moment to re-read its file.
                await asyncio.sleep(0.02)
            except TimeoutError:
                continue

    async def _ask(self) -> None:
        before = _essence(self.readiness)
        address = self.address if self.pid else ""
        self.readiness = await readyz(address) if address else Readiness()
        self._watch_silence(bool(address))
        if _essence(self.readiness) != before:
            self._on_change()

    def _watch_silence(self, listening: bool) -> None:
        now = time.monotonic()
        if self.readiness.status or not listening:
            self._answered = now
        elif now - self._answered > SILENCE_SECONDS:
            self._answered = now
            self._supervisor.restart()

    async def stop(self, grace: float) -> None:
        """End it within `grace` seconds and remove its configuration (it may hold a credential)."""
        self._prober.cancel()
        self.readiness = Readiness()
        await self._supervisor.stop(grace)
        self._path.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it at once."""
        self._prober.cancel()
        self._supervisor.kill()


def _essence(readiness: Readiness) -> tuple[object, ...]:
    """What a plan may depend on; measured memory changes all the time and is only displayed."""
    body = readiness.body
    return (readiness.status, *(str(body.get(name)) for name in ("config", "digest", "state", "restarts", "reason")))
