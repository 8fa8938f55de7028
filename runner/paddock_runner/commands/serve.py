"""`paddock-runner serve`: one Model's HTTP front with its engine child. Called by `paddock_runner.__main__`.

The composition root of the front: configuration, cache, engine, template worker, metrics and application meet here.
Exit codes: 0 stopped by a signal, 1 the model cannot be served, 2 bad usage or a bad configuration at start, 4 the
address is in use, 130 ended by a second signal.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from paddock_runner import logs
from paddock_runner.api.app import Lifespan, build_app
from paddock_runner.api.facts import ModelFacts, usable_messages, usable_options
from paddock_runner.api.metrics import Metrics
from paddock_runner.api.runner import Runner
from paddock_runner.api.settings import ServeConfig, parse_settings
from paddock_runner.configfile import ConfigFile
from paddock_runner.core.digest import Digest
from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.generation import Event, GenerationError
from paddock_runner.engine.client import EngineClient, EngineState
from paddock_runner.httpd import EXIT_USAGE, serve
from paddock_runner.parent import die_with_parent
from paddock_runner.store.errors import NotFoundError, StoreError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import ModelFiles, load_model
from paddock_runner.store.show import rfc3339, show
from paddock_runner.store.store import Store
from paddock_runner.templating.client import TemplateWorker

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
CACHE_WAIT_SECONDS = 60.0
CACHE_POLL_SECONDS = 0.5


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
    except StoreError as error:
        sys.stderr.write(f"the model cannot be served: {error}\n")
        return EXIT_FAILURE
    return serve(
        build_app(front.runner, front.lifespan),
        options.listen,
        drain_seconds=lambda: front.runner.config.drain_seconds,
        on_drain=front.drain,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddock-runner serve", description="Serve one model over HTTP.")
    parser.add_argument("--config", type=Path, required=True, help="the serve configuration (JSON, re-read on change)")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT, [IPV6]:PORT or fd:N; port 0 is any")
    return parser


class Front:
    """Everything of one process. Raises ValueError or OSError for a bad configuration, StoreError for a bad model."""

    def __init__(self, path: Path) -> None:
        self._file = ConfigFile(path, parse_settings, on_change=self._on_change, on_error=self._on_error)
        config = self._file.value
        if not Path(config.models).is_dir():
            raise ValueError(f"models: {config.models} is not a folder")
        store = Store(Path(config.models))
        stored = wait_for(store, Digest.parse(config.digest))
        files = load_model(store, stored)
        self._metrics = Metrics(config.name)
        self._engine = EngineClient(files.model_path, config.record, queue_depth=config.queue_depth, observer=self)
        self._templates = TemplateWorker()
        facts = model_facts(store, stored, files)
        self.runner = Runner(self._engine, self._file, facts, self._templates, self._metrics)
        if config.anonymous:
            log.warning("anonymous is true: whoever reaches this port may use the model")

    @property
    def lifespan(self) -> Lifespan:
        """Starts the engine, the template worker and the watch of the configuration; ends them with the application."""

        @asynccontextmanager
        async def beside(app: FastAPI) -> AsyncIterator[None]:
            self.runner.set_keep_alive(None)
            works: list[Coroutine[Any, Any, Any]] = [self._file.watch(), self._engine.load(), self._templates.start()]
            tasks = [asyncio.create_task(_logged(work)) for work in works]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._engine.close()
                await self._templates.close()

        return beside

    def drain(self) -> None:
        """No new work from now on."""
        self.runner.draining = True

    def on_state(self, state: EngineState) -> None:
        """Observer's hook."""
        self._metrics.on_state(state)
        self.runner.on_state(state)
        if state == "ready" and self._engine.last_load_seconds is not None:
            self._metrics.load_seconds.labels(self._metrics.model).observe(self._engine.last_load_seconds)

    def on_step(self, stats: StepStats) -> None:
        """Observer's hook."""
        self._metrics.on_step(stats)

    def on_event(self, request_id: str, event: Event) -> None:
        """Observer's hook."""
        self._metrics.on_event(request_id, event)

    def _on_change(self, config: ServeConfig) -> None:
        self.runner.apply_config(config)
        log.info("configuration in force", extra={"sha256": self._file.sha256})

    def _on_error(self, message: str) -> None:
        self._metrics.configuration_errors.inc()
        log.error("configuration refused, the last good one stays: %s", message)


def wait_for(store: Store, digest: Digest) -> StoredManifest:
    """The manifest, once it is in the cache. Raises NotFoundError after a minute: whoever started this tries again."""
    deadline = time.monotonic() + CACHE_WAIT_SECONDS
    told = False
    while True:
        try:
            return store.manifest_by_digest(digest)
        except NotFoundError:
            if time.monotonic() > deadline:
                raise
        if not told:
            told = True
            log.info("waiting for the model to be in the cache", extra={"digest": str(digest)})
        time.sleep(CACHE_POLL_SECONDS)


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
    with suppress(asyncio.CancelledError):
        try:
            await work
        except GenerationError as error:
            log.error("start-up: %s", error)
