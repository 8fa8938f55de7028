"""`/healthz`, `/readyz`, `/metrics`: what supervisors and Prometheus ask, without a credential. Called by `app`."""

from __future__ import annotations

import resource

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from paddock_runner.api.context import runner_of


async def healthz(request: Request) -> Response:
    """200 while the process lives."""
    return PlainTextResponse("ok")


async def readyz(request: Request) -> Response:
    """200 or 503; the body says which configuration and model are in force."""
    status = runner_of(request).status()
    return JSONResponse(status.body(), 200 if status.ready else 503)


async def metrics(request: Request) -> Response:
    """The exposition text; gauges are read now."""
    runner = runner_of(request)
    shown, engine, record = runner.metrics, runner.engine, runner.config.record
    shown.show_state(runner.state())
    shown.show_memory(engine.memory, resident())
    shown.show_load(engine.stats, engine.open_requests, record.slots, engine.cells or record.cells)
    return Response(shown.exposition(), media_type=CONTENT_TYPE_LATEST)


def resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
