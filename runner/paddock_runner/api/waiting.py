"""What a runner answers while its model is not in the cache yet: health, readiness, metrics, and 503 for the rest.

Built by `commands.serve`; it has the same edge as the real application (request ids, credential, access log).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from paddock_runner.api import ops
from paddock_runner.api.app import Edge, Lifespan
from paddock_runner.api.errors import ApiError, dialect_of, error_response
from paddock_runner.api.metrics import Metrics
from paddock_runner.api.runner import DRAINING, ConfigInForce
from paddock_runner.api.settings import ServeConfig
from paddock_runner.api.status import Status, shown_memory
from paddock_runner.store.search import ABSENT

RETRY_AFTER_SECONDS = 5.0


class WaitingRoom:
    """Stands in for the runner until the model is there. `reason` says why it is not."""

    def __init__(self, config: ConfigInForce, digest: str, metrics: Metrics) -> None:
        self.metrics = metrics
        self.now: Callable[[], float] = time.monotonic
        self.reason = ABSENT
        self.draining = False
        self._config = config
        self._digest = digest

    @property
    def config(self) -> ServeConfig:
        """The configuration in force."""
        return self._config.value

    def status(self) -> Status:
        """What `/readyz` and the state lines tell."""
        state, reason = ("draining", DRAINING) if self.draining else ("starting", self.reason)
        return Status(False, reason, state, self._config.sha256, self._digest, 0, 0, shown_memory(None))


def build_waiting_app(room: WaitingRoom, lifespan: Lifespan) -> ASGIApp:
    """The application for `room`; `lifespan` starts and ends what runs beside it and beside its successor."""
    routes = [
        Route("/healthz", ops.healthz),
        Route("/readyz", _readyz),
        Route("/metrics", _metrics),
        Route("/{path:path}", _later, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.room = room
    return Edge(app, room)


def _room(request: Request) -> WaitingRoom:
    return cast(WaitingRoom, request.app.state.room)


async def _readyz(request: Request) -> Response:
    return JSONResponse(_room(request).status().body(), 503)


async def _metrics(request: Request) -> Response:
    room = _room(request)
    record = room.config.record
    room.metrics.show_state(room.status().state)
    room.metrics.show_memory(None, ops.resident())
    room.metrics.show_load(None, 0, record.slots, record.cells)
    return Response(room.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


async def _later(request: Request) -> Response:
    room = _room(request)
    text = f"this runner cannot answer yet: {room.status().reason}"
    error = ApiError(503, text, reason="engine", code="engine_loading", retry_after=RETRY_AFTER_SECONDS)
    room.metrics.reject(error.reason)
    return error_response(dialect_of(request.url.path), error)
