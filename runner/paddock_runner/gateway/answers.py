"""What the gateway answers itself: health, metrics, lists of models, refused management. Called by `gateway.app`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from paddock_runner.core import compat
from paddock_runner.core.gateway_config import Model
from paddock_runner.gateway import lists, naming, routes
from paddock_runner.gateway.call import Answer, Call
from paddock_runner.gateway.configuration import Configuration
from paddock_runner.gateway.directory import Directory
from paddock_runner.gateway.errors import Refusal
from paddock_runner.gateway.metrics import Metrics
from paddock_runner.gateway.snapshot import Snapshot
from paddock_runner.gateway.upstream import Upstream

_TEXT = b"text/plain; charset=utf-8"
MAX_ASKED = 16
"""Of how many runners of a Model /api/ps asks what they have loaded."""
_EXPOSITION = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Status:
    """What /readyz tells: whether the gateway drains, and a warning for people. `refuse_at` is monotonic."""

    draining: bool = False
    refuse_at: float = 0.0
    warning: str | None = None


class Answers:
    """Readiness never depends on backends: a gateway without them still says why it refuses."""

    def __init__(
        self, file: Configuration, status: Status, metrics: Metrics, upstream: Upstream, directory: Directory
    ) -> None:
        self._file = file
        self._status = status
        self._metrics = metrics
        self._upstream = upstream
        self._directory = directory

    def by_action(self) -> Mapping[str, Answer]:
        """The answers by the action of a route."""
        return {
            "health": self._health,
            "ready": self._ready,
            "metrics": self._exposition,
            "banner": self._banner,
            "version": self._version,
            "tags": self._tags,
            "models": self._models,
            "model": self._model,
            "ps": self._ps,
            "management": self._management,
        }

    async def _health(self, call: Call) -> None:
        await call.exchange.respond_json({"ok": True})

    async def _ready(self, call: Call) -> None:
        draining = self._status.draining
        body: dict[str, object] = {"ready": not draining, "config": self._file.sha256}
        if draining:
            body["reason"] = "draining"
        if self._status.warning:
            body["warning"] = self._status.warning
        await call.exchange.respond_json(body, 503 if draining else 200)

    async def _exposition(self, call: Call) -> None:
        await call.exchange.respond(200, self._metrics.render(), _EXPOSITION)

    async def _banner(self, call: Call) -> None:
        await call.exchange.respond(200, b"Ollama is running", _TEXT)

    async def _version(self, call: Call) -> None:
        await call.exchange.respond_json({"version": compat.OLLAMA_VERSION})

    async def _tags(self, call: Call) -> None:
        await call.exchange.respond_json(lists.tags(call.snapshot.visible(call.key)))

    async def _models(self, call: Call) -> None:
        await call.exchange.respond_json(lists.models(call.snapshot.visible(call.key)))

    async def _model(self, call: Call) -> None:
        name = cast("str", call.exchange.scope["path"]).removeprefix(routes.MODEL_PREFIX)
        model = call.snapshot.find(name, call.key)
        if model is None:
            raise naming.not_found(call.route, name)
        await call.exchange.respond_json(lists.openai_model(name, model))

    async def _ps(self, call: Call) -> None:
        visible = call.snapshot.visible(call.key)
        entries = await asyncio.gather(*(self._running(model, call.snapshot) for model in visible))
        found = {model.name: entry for model, entry in zip(visible, entries, strict=True) if entry}
        await call.exchange.respond_json(lists.running(found, visible))

    async def _running(self, model: Model, snapshot: Snapshot) -> dict[str, object] | None:
        credential = snapshot.config.backend_credential
        urls = self._directory.urls(model)[:MAX_ASKED]
        answers = await asyncio.gather(*(self._upstream.running(url, credential) for url in urls))
        return next((answer for answer in answers if answer), None)

    async def _management(self, call: Call) -> None:
        raise Refusal("management_disabled", f"{call.route.path}: management is disabled on this Endpoint")
