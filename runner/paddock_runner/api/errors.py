"""One error type for the HTTP front, and its form in each dialect. Used by every module of `api`.

Handlers raise `ApiError` or let a `GenerationError` pass; `app` and `streaming` speak them in the route's dialect.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from starlette.responses import JSONResponse

from paddock_runner.core.generation import (
    ContextExceededError,
    DrainingError,
    EngineFailedError,
    EngineLoadingError,
    GenerationError,
    InvalidRequestError,
    QueueFullError,
)
from paddock_runner.templating.client import ChatTemplateError

Dialect = Literal["ollama", "openai", "anthropic"]
Reason = Literal[
    "auth", "schema", "too_large", "context", "template", "unsupported", "not_found",
    "queue", "engine", "draining", "internal",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)

OLLAMA_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_OPENAI_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class ApiError(Exception):
    """What a client is told. `param` names the field, `code` is for programs, `retry_after` is in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: Reason = "schema",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.param = param
        self.code = code
        self.retry_after = retry_after


def unsupported(field: str, message: str | None = None) -> ApiError:
    """The 400 for a field whose feature does not exist here."""
    text = message or f"{field}: not supported yet; leave it out"
    return ApiError(400, text, reason="unsupported", param=field, code="unsupported_parameter")


def internal_error() -> ApiError:
    """The 500 for what should not happen; the log has the details, the client must not."""
    return ApiError(500, "internal error; the server's log has the details", reason="internal", code="internal_error")


def as_api_error(error: Exception) -> ApiError:
    """The client's view of any exception."""
    if isinstance(error, ApiError):
        return error
    return _from_generation(error) if isinstance(error, GenerationError) else internal_error()


def _from_generation(error: GenerationError) -> ApiError:
    text = str(error)
    if isinstance(error, ContextExceededError):
        return ApiError(400, text, reason="context", param="messages", code="context_length_exceeded")
    if isinstance(error, InvalidRequestError):
        return ApiError(400, text, param=error.field, code="invalid_value")
    if isinstance(error, ChatTemplateError):
        return ApiError(400 if error.kind == "raised" else 500, text, reason="template", code="template")
    if isinstance(error, QueueFullError):
        return ApiError(503, text, reason="queue", code="queue_full", retry_after=error.retry_after)
    if isinstance(error, DrainingError):
        return ApiError(503, text, reason="draining", code="draining", retry_after=error.retry_after)
    if isinstance(error, EngineLoadingError):
        return ApiError(503, text, reason="engine", code="engine_loading", retry_after=error.retry_after)
    if isinstance(error, EngineFailedError):
        return ApiError(503, text, reason="engine", code="engine_failed", retry_after=error.retry_after)
    return internal_error()


def dialect_of(path: str) -> Dialect:
    """The dialect in which a route answers."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return "anthropic"
    return "openai" if path == "/v1" or path.startswith("/v1/") else "ollama"


def error_body(dialect: Dialect, error: ApiError) -> dict[str, Any]:
    """The JSON object of `error` in `dialect`."""
    if dialect == "ollama":
        return {"error": OLLAMA_BUSY if error.code == "queue_full" else error.message}
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    kind = _OPENAI_TYPES.get(error.status, "api_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def error_response(dialect: Dialect, error: ApiError) -> JSONResponse:
    """The whole reply of `error` in `dialect`."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body was not read
    return JSONResponse(error_body(dialect, error), error.status, headers)
