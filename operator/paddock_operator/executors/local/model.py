"""One Model on this machine: gather what is true, let the plan decide, act with child processes.

Called by `controller` for one key at a time. Nothing here decides: `act` makes the processes equal to the plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from paddock_operator.core.bases import Base
from paddock_operator.core.identity import child_name
from paddock_operator.core.observed import ModelObserved, ModelSnapshot, RunnerObserved, RunnerState
from paddock_operator.core.plan_types import RESTART_FIELDS, ModelPlan
from paddock_operator.core.resources import Model, Ref
from paddock_operator.core.snapshot import snapshot
from paddock_operator.executors.local.context import Context
from paddock_operator.executors.local.credentials import Credentials
from paddock_operator.executors.local.probe import Readiness
from paddock_operator.executors.local.program import Program
from paddock_operator.executors.local.puller import Puller

EXIT_SECONDS = 5.0
"""What a program may take to end beyond its own drain time."""
_STATES = ("starting", "loading", "ready", "unloaded", "crashed")


class ModelUnit:
    """The puller and the runner of one Model."""

    def __init__(self, context: Context, ref: Ref) -> None:
        self._context = context
        self._ref = ref
        self._child = child_name(ref)
        self._program: Program | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._puller = Puller(context, f"{self._child}-pull", self._ring, self._progress)
        self._checker = Puller(context, f"{self._child}-check", self._ring, self._progress, tries=1)
        self._converter = Puller(context, f"{self._child}-convert", self._ring, self._progress, "convert")

    def _ring(self) -> None:
        self._context.ring(self._ref)

    def _progress(self, digest: str, completed: int, total: int, speed: float) -> None:
        self._context.reporter.progress(self._ref, digest, completed, total, speed)

    def sign_in(self, credentials: Credentials | None) -> None:
        """Pull with these credentials from now on; new ones let a failed pull be tried again at once."""
        if self._puller.credentials != credentials:
            self._puller.credentials = self._checker.credentials = credentials
            self.retry_pull()

    def gather(
        self,
        model: Model,
        status: Mapping[str, Any],
        names: tuple[str, ...],
        credentials: tuple[tuple[str, str], ...],
        base: Base | None,
    ) -> ModelObserved:
        """What is true now, for the plan."""
        return ModelObserved(
            model=model,
            status=status,
            pull=self._puller.observed,
            runner=self._runner(),
            names=names,
            credentials=credentials,
            models_dir=str(self._context.home.models),
            now=self._context.now(),
            memory_available=self._context.memory,
            convert=self._converter.observed,
            base=base,
            check=self._checker.observed,
            check_seconds=self._context.check_seconds,
        )

    def _runner(self) -> RunnerObserved:
        if self._program is None:
            return RunnerObserved("stopped" if self._leaving else "none")
        readiness = self._program.readiness
        return RunnerObserved(
            state=_state(self._program),
            config_hash=readiness.text("config"),
            digest=readiness.text("digest"),
            address=self._program.address,
            restarts=self._program.restarts,
            message=readiness.text("reason") or _exit_message(self._program, self._child),
            memory=_memory(readiness.body.get("memory")),
        )

    def act(self, plan: ModelPlan) -> None:
        """Make the processes what the plan says; what takes time goes on by itself and rings when it is done."""
        self._puller.ensure(plan.pull, plan.pull_key)
        self._converter.ensure(plan.convert, plan.convert_key)
        self._checker.ensure(plan.check, plan.check_key)
        program = self._program
        if program is not None and (plan.serve is None or _needs_restart(program.config, plan.serve)):
            self._retire(program)
        if plan.serve is None or self._leaving is not None:
            return
        if self._program is None:
            self._program = self._start(plan.serve)
        elif self._program.config != plan.serve:
            self._program.configure(plan.serve)

    def _start(self, config: Mapping[str, Any]) -> Program:
        path = self._context.home.run / f"model-{self._child}.json"
        return Program(self._context, self._child, path, ("serve", "--listen", "127.0.0.1:0"), config, self._ring)

    def _retire(self, program: Program) -> None:
        self._program = None
        self._leaving = asyncio.create_task(program.stop(grace(program.config)))
        self._leaving.add_done_callback(self._left)

    def _left(self, _: asyncio.Task[None]) -> None:
        self._leaving = None
        self._ring()

    def retry_pull(self) -> None:
        """What a failed pull may have lacked is there: try it again now."""
        for worker in (self._puller, self._converter):
            if worker.observed.state == "failed":
                worker.retry_now()

    @property
    def waits_for_bytes(self) -> bool:
        """A pull or conversion failed and waits before it is tried again."""
        return "failed" in (self._puller.observed.state, self._converter.observed.state)

    def snapshot(self, model: Model, status: Mapping[str, Any]) -> ModelSnapshot:
        """What Endpoints see of this Model."""
        address = self._program.address if self._program is not None else ""
        return snapshot(model, status, (f"http://{address}",) if address else ())

    async def stop(self) -> None:
        """End puller and runner; running answers may finish within drainSeconds."""
        await asyncio.gather(self._puller.stop(), self._converter.stop(), self._checker.stop())
        if self._program is not None:
            program, self._program = self._program, None
            await program.stop(grace(program.config))
        if self._leaving is not None:
            await asyncio.gather(self._leaving, return_exceptions=True)

    def kill(self) -> None:
        """End everything at once."""
        self._puller.kill()
        self._converter.kill()
        self._checker.kill()
        if self._program is not None:
            self._program.kill()


def grace(config: Mapping[str, Any]) -> float:
    """Seconds that a program with this configuration gets to end."""
    return float(config.get("drainSeconds", 0)) + EXIT_SECONDS


def _needs_restart(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old.get(name) != new.get(name) for name in RESTART_FIELDS)


def _state(program: Program) -> RunnerState:
    if program.crashed:
        return "crashed"
    return runner_state(program.readiness)


def runner_state(readiness: Readiness) -> RunnerState:
    """What a runner says it is; one that wakes up for a request is as ready as it was while it slept."""
    state = readiness.text("state")
    if readiness.ready and state in ("starting", "loading"):
        return "unloaded"
    return cast(RunnerState, state) if state in _STATES else "starting"


def _exit_message(program: Program, child: str) -> str:
    return f"ended with status {program.last_exit}; see logs/{child}.log" if program.crashed else ""


def _memory(found: Any) -> dict[str, int]:
    items = found.items() if isinstance(found, dict) else ()
    return {str(name): value for name, value in items if isinstance(value, int)}
