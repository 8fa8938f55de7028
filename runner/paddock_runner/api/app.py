"""The runner's HTTP application: routes, the edge before them, errors by dialect. Built by `commands.serve`.

The edge is plain ASGI around the whole application: request id, credential, access log. It looks at no body.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddock_runner.api import auth, embed, ollama, ollama_models, openai, ops, rerank
from paddock_runner.api.context import refusal
from paddock_runner.api.errors import ApiError, as_api_error, dialect_of, error_response, internal_error
from paddock_runner.api.metrics import Metrics
from paddock_runner.api.refused import REFUSED, Handler, refuse
from paddock_runner.api.runner import Runner
from paddock_runner.api.settings import ServeConfig
from paddock_runner.core.generation import GenerationError
from paddock_runner.logs import request_id

log = logging.getLogger(__name__)

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = auth.OPEN_PATHS

ROUTES: tuple[tuple[str, tuple[str, ...], Handler], ...] = (
    ("/", ("GET", "HEAD"), ollama_models.root),
    ("/api/version", ("GET", "HEAD"), ollama_models.version),
    ("/api/tags", ("GET", "HEAD"), ollama_models.tags),
    ("/api/ps", ("GET",), ollama_models.ps),
    ("/api/show", ("POST",), ollama_models.show),
    ("/api/generate", ("POST",), ollama.generate),
    ("/api/chat", ("POST",), ollama.chat),
    ("/v1/models", ("GET",), openai.models),
    ("/v1/models/{name:path}", ("GET",), openai.model),
    ("/v1/chat/completions", ("POST",), openai.chat_completions),
    ("/v1/completions", ("POST",), openai.completions),
    ("/api/embed", ("POST",), embed.embed),
    ("/api/embeddings", ("POST",), embed.embeddings),
    ("/v1/embeddings", ("POST",), embed.openai_embeddings),
    ("/v1/rerank", ("POST",), rerank.rerank),
    ("/healthz", ("GET", "HEAD"), ops.healthz),
    ("/readyz", ("GET", "HEAD"), ops.readyz),
    ("/metrics", ("GET",), ops.metrics),
)


def build_app(runner: Runner, lifespan: Lifespan | None = None) -> ASGIApp:
    """The application for `runner`; `lifespan` starts and ends what runs beside it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan, redirect_slashes=False)
    app.state.runner = runner
    for path, methods, handler in ROUTES:
        app.add_route(path, handler, methods=list(methods))
    for path, methods, status, message in REFUSED:
        app.add_route(path, refuse(status, message), methods=list(methods))
    app.add_exception_handler(ApiError, _on_error)
    app.add_exception_handler(GenerationError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_surprise)
    return Edge(app, runner)


async def _on_error(request: Request, error: Exception) -> Response:
    return refusal(request, as_api_error(error))


async def _on_surprise(request: Request, error: Exception) -> Response:
    return refusal(request, internal_error())


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """The router's own errors: no such route, wrong method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path[:200]
    texts = {404: f"{path}: no such route", 405: f"{path}: method {request.method[:16]} not allowed"}
    code = "method_not_allowed" if status == 405 else "not_found"
    told = ApiError(status, texts.get(status, "the request was refused"), reason="not_found", code=code)
    response = refusal(request, told)
    if isinstance(error, HTTPException):
        response.headers.update(error.headers or {})
    return response


class Desk(Protocol):
    """What the edge asks: which configuration is in force, where to count, what time it is."""

    @property
    def config(self) -> ServeConfig: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def now(self) -> Callable[[], float]: ...


class Edge:
    """Gives each request its id, lets only callers with a credential in, and writes one log line per request."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app = app
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        identity = _identity(headers.get("x-request-id", ""))
        token = request_id.set(identity)
        scope["paddock.arrived"] = self._desk.now()
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = identity
            await send(message)

        try:
            await self._admitted(headers, scope, receive, told)
        except Exception:
            log.exception("a request failed")
        finally:
            self._log(scope, status)
            request_id.reset(token)

    async def _admitted(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        config = self._desk.config
        if scope["path"] not in auth.OPEN_PATHS and not config.anonymous:
            try:
                auth.check(headers, [credential.sha256 for credential in config.credentials])
            except ApiError as error:
                self._desk.metrics.reject(error.reason)
                await error_response(dialect_of(scope["path"]), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _log(self, scope: Scope, status: int) -> None:
        if scope["path"] in _QUIET:
            return
        milliseconds = round((self._desk.now() - scope["paddock.arrived"]) * 1000, 1)
        extra = {"method": scope["method"], "path": scope["path"][:128], "status": status, "milliseconds": milliseconds}
        log.info("request", extra=extra)


def _identity(offered: str) -> str:
    return offered if REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
