"""`paddock-runner serve`: one Model's HTTP front with its engine child. Called by `paddock_runner.__main__`.

The composition root of the front: configuration, cache, engine, template worker, metrics and application meet here.
It listens at once and waits for its model as long as it takes; stdout tells each change of its state.
Exit codes: 0 stopped by a signal, 1 an internal error, 2 bad usage or a bad configuration at start, 4 the address is
in use, 130 ended by a second signal.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from paddock_runner import logs
from paddock_runner.api.app import build_app
from paddock_runner.api.facts import ModelFacts, usable_messages, usable_options
from paddock_runner.api.metrics import Metrics
from paddock_runner.api.runner import Runner
from paddock_runner.api.settings import ServeConfig, parse_settings
from paddock_runner.api.status import StateLines, Status
from paddock_runner.api.waiting import WaitingRoom, build_waiting_app
from paddock_runner.api.warming import warm
from paddock_runner.configfile import ConfigFile
from paddock_runner.core.crash import Cause
from paddock_runner.core.digest import Digest
from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.generation import GenerationError
from paddock_runner.engine.client import EngineClient, EngineState, EngineTimings
from paddock_runner.engine.streams import AnyEvent
from paddock_runner.httpd import EXIT_USAGE, serve
from paddock_runner.parent import die_with_parent
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import ModelFiles
from paddock_runner.store.search import Search
from paddock_runner.store.show import rfc3339, show
from paddock_runner.store.store import Store
from paddock_runner.templating.client import TemplateWorker

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
LONG_TEXT_SECONDS = 300.0
"""How long an encoder may be silent: it computes a text in one step, however long the text is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; returns the exit code."""
    options = _parser().parse_args(arguments)
    die_with_parent()
    logs.setup("runner")
    try:
        front = Front(options.config)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{options.config}: {error}\n")
        return EXIT_USAGE
    return serve(front, options.listen, drain_seconds=front.drain_seconds, on_drain=front.drain)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock-runner serve", description="Serve one model over HTTP.")
    parser.add_argument("--config", type=Path, required=True, help="the serve configuration (JSON, re-read on change)")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT, [IPV6]:PORT or fd:N; port 0 is any")
    return parser


class Front:
    """Everything of one process: an ASGI application that waits for its model, then serves it.

    Raises ValueError or OSError for a bad configuration.
    """

    def __init__(self, path: Path) -> None:
        self._file = ConfigFile(path, parse_settings, on_change=self._on_change, on_error=self._on_error)
        config = self._file.value
        if not Path(config.models).is_dir():
            raise ValueError(f"models: {config.models} is not a folder")
        self._models = Path(config.models)
        self._digest = Digest.parse(config.digest)
        self._metrics = Metrics(config.name)
        self._templates = TemplateWorker()
        self._room = WaitingRoom(self._file, config.digest, self._metrics)
        self._app = build_waiting_app(self._room, self._beside)
        self._engine: EngineClient | None = None
        self._runner: Runner | None = None
        self._search = Search(self._models, self._digest)
        self._lines = StateLines(self._status)
        if config.anonymous:
            log.warning("anonymous is true: whoever reaches this port may use the model")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _status(self) -> Status:
        return self._room.status() if self._runner is None else self._runner.status()

    def drain_seconds(self) -> float:
        """How long running requests may take once the program is asked to end."""
        return self._file.value.drain_seconds

    @asynccontextmanager
    async def _beside(self, app: object) -> AsyncIterator[None]:
        """Runs what is beside the application; ends it with the application."""
        works: list[Coroutine[Any, Any, Any]] = [
            self._lines.watch(), self._file.watch(), self._templates.start(), self._serve_when_there()
        ]  # fmt: skip
        tasks = [asyncio.create_task(_logged(work)) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._engine is not None:
                await self._engine.close()
            self._search.close()
            await self._templates.close()

    async def _serve_when_there(self) -> None:
        try:
            await self._start(*await self._search.until_found(self._waits))
        except GenerationError:
            raise
        except Exception:
            # Nothing here can go on, and a front that waits for nothing would look alive for ever.
            log.exception("the model cannot be served")
            os._exit(EXIT_FAILURE)

    def _waits(self, reason: str) -> None:
        log.info("not serving yet: %s", reason, extra={"digest": str(self._digest)})
        self._room.reason = reason
        self._lines.tell()

    async def _start(self, store: Store, stored: StoredManifest, files: ModelFiles) -> None:
        config = self._file.value
        model = files.split_paths or files.model_path
        timings = EngineTimings() if config.record.mode == "generate" else EngineTimings(stall=LONG_TEXT_SECONDS)
        self._engine = EngineClient(
            model, config.record, queue_depth=config.queue_depth, observer=self, timings=timings
        )
        runner = Runner(self._engine, self._file, model_facts(store, stored, files), self._templates, self._metrics)
        runner.draining = self._room.draining
        runner.warm = warm
        self._runner, self._app = runner, build_app(runner)
        runner.set_keep_alive(None)
        self._lines.tell()
        await self._engine.load()

    def drain(self) -> None:
        """No new work from now on."""
        self._room.draining = True
        if self._runner is not None:
            self._runner.draining = True
        self._lines.tell()

    def on_state(self, state: EngineState) -> None:
        """Observer's hook."""
        self._metrics.on_state(state)
        if self._runner is not None:
            self._runner.on_state(state)
        if state == "ready" and self._engine is not None and self._engine.last_load_seconds is not None:
            self._metrics.load_seconds.labels(self._metrics.model).observe(self._engine.last_load_seconds)
        self._lines.tell()

    def on_step(self, stats: StepStats) -> None:
        """Observer's hook."""
        self._metrics.on_step(stats)

    def on_crash(self, cause: Cause) -> None:
        """Observer's hook."""
        self._metrics.on_crash(cause)

    def on_event(self, request_id: str, event: AnyEvent) -> None:
        """Observer's hook."""
        self._metrics.on_event(request_id, event)

    def _on_change(self, config: ServeConfig) -> None:
        if self._runner is not None:
            self._runner.apply_config(config)
        log.info("configuration in force", extra={"sha256": self._file.sha256})
        self._lines.tell()

    def _on_error(self, message: str) -> None:
        self._metrics.configuration_errors.inc()
        log.error("configuration refused, the last good one stays: %s", message)


def model_facts(store: Store, stored: StoredManifest, files: ModelFiles) -> ModelFacts:
    """What the dialects tell of the model."""
    details = files.details
    return ModelFacts(
        digest=str(files.digest),
        size=files.size,
        modified_at=rfc3339(files.modified_at),
        family=details["family"],
        parameter_size=details["parameterSize"],
        quantization=details["quantization"],
        context_train=details["contextLength"],
        embedding_length=details["embeddingLength"],
        capabilities=tuple(details["capabilities"]),
        stored_show=lru_cache(maxsize=1)(lambda: show(store, stored.name)),
        chat_template=files.header.chat_template,
        template=files.template,
        system=files.system,
        options=usable_options(files.parameters),
        preset=usable_messages(files.messages),
    )


async def _logged(work: Coroutine[Any, Any, Any]) -> None:
    """A failing part beside the application is told once; `/readyz` shows its consequence."""
    try:
        await work
    except GenerationError as error:
        log.error("start-up: %s", error)
    except Exception:
        log.exception("a part of the runner ended")
