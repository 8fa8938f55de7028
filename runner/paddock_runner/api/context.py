"""What a handler asks of its request: the runner behind it, when it arrived, its id. Used by the dialects and `app`."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from paddock_runner.api.errors import ApiError, dialect_of, error_response
from paddock_runner.api.runner import Runner

MAX_TENANT = 256


def runner_of(request: Request) -> Runner:
    """The runner that this application serves."""
    return cast(Runner, request.app.state.runner)


def arrival_of(request: Request) -> float:
    """When the request arrived, on the runner's clock."""
    return cast(float, request.scope["paddock.arrived"])


def tenant_of(request: Request) -> str:
    """Whose request it is, as the gateway says; all that come without a gateway, or by one without keys, are one."""
    return request.headers.get("x-paddock-tenant", "")[:MAX_TENANT]


def refusal(request: Request, error: ApiError) -> Response:
    """The reply for `error` in the dialect of the route; counts it."""
    runner_of(request).metrics.reject(error.reason)
    return error_response(dialect_of(request.url.path), error)
