"""Everything that the gateway refuses, and how each dialect says it. Raised in `gateway`, rendered by its `app`.

A reason is a closed word: it labels metrics and chooses status, type and code. The message is for people.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from paddock_runner.core.gateway_config import Dialect, Model

Reason = Literal[
    "bad_request",
    "bad_json",
    "head_too_large",
    "bad_host",
    "bad_origin",
    "media_type",
    "unauthorized",
    "auth_throttled",
    "forbidden",
    "management_disabled",
    "route_not_found",
    "model_not_found",
    "method_not_allowed",
    "body_timeout",
    "body_too_large",
    "rate_limited",
    "queue_full",
    "queue_timeout",
    "draining",
    "no_backend",
    "backend_failed",
    "internal",
]


BUSY = "server busy, please try again.  maximum pending requests exceeded"
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Status and words of one reason: OpenAI's type and code, Anthropic's type."""

    status: int
    openai: str
    code: str | None
    anthropic: str


_INVALID = "invalid_request_error"
_NO_ACCESS = "permission_error"
_BUSY = "overloaded_error"

SHAPES: Mapping[Reason, Shape] = {
    "bad_request": Shape(400, _INVALID, None, _INVALID),
    "bad_json": Shape(400, _INVALID, "invalid_json", _INVALID),
    "head_too_large": Shape(431, _INVALID, "head_too_large", _INVALID),
    "bad_host": Shape(403, _NO_ACCESS, "host_not_allowed", _NO_ACCESS),
    "bad_origin": Shape(403, _NO_ACCESS, "origin_not_allowed", _NO_ACCESS),
    "media_type": Shape(415, _INVALID, "unsupported_media_type", _INVALID),
    "unauthorized": Shape(401, _INVALID, "invalid_api_key", "authentication_error"),
    "auth_throttled": Shape(429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error"),
    "forbidden": Shape(403, _NO_ACCESS, "forbidden", _NO_ACCESS),
    "management_disabled": Shape(403, _NO_ACCESS, "management_disabled", _NO_ACCESS),
    "route_not_found": Shape(404, "not_found_error", "unknown_url", "not_found_error"),
    "model_not_found": Shape(404, "not_found_error", "model_not_found", "not_found_error"),
    "method_not_allowed": Shape(405, _INVALID, "method_not_allowed", _INVALID),
    "body_timeout": Shape(408, _INVALID, "request_timeout", _INVALID),
    "body_too_large": Shape(413, _INVALID, "request_too_large", "request_too_large"),
    "rate_limited": Shape(429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error"),
    "queue_full": Shape(503, _BUSY, "queue_full", _BUSY),
    "queue_timeout": Shape(503, _BUSY, "queue_timeout", _BUSY),
    "draining": Shape(503, _BUSY, "draining", _BUSY),
    "no_backend": Shape(503, "api_error", "model_not_ready", _BUSY),
    "backend_failed": Shape(502, "api_error", "backend_failed", "api_error"),
    "internal": Shape(500, "api_error", "internal_error", "api_error"),
}


class Refusal(Exception):  # noqa: N818
    """An answer other than the backend's. `headers` go out with it (`Retry-After`, `Allow`, `WWW-Authenticate`)."""

    def __init__(self, reason: Reason, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """The HTTP status."""
        return SHAPES[self.reason].status


class Unavailable(Refusal):
    """No runner took the request, and nothing was sent: waiting may help."""


def not_ready(model: Model) -> Unavailable:
    """No runner can take the request now."""
    message = f"model {model.name!r} is not ready yet; try again in a moment"
    return Unavailable("no_backend", message, headers={"Retry-After": str(math.ceil(RETRY_SECONDS))})


def retry_after(reason: Reason, message: str, seconds: float) -> Refusal:
    """A refusal that says when to come back: whole seconds, at least one."""
    return Refusal(reason, message, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def body(refusal: Refusal, dialect: Dialect, request_id: str) -> bytes:
    """The JSON body of the refusal in the dialect's form."""
    return json.dumps(_form(refusal, dialect, request_id)).encode()


def stream_tail(refusal: Refusal, dialect: Dialect, media_type: str, request_id: str) -> bytes | None:
    """What ends a stream that broke: a last NDJSON line or SSE event; None when the media type has no room for one."""
    text = body(refusal, dialect, request_id)
    if media_type == "application/x-ndjson":
        return text + b"\n"
    if media_type == "text/event-stream":
        return (b"event: error\n" if dialect == "anthropic" else b"") + b"data: " + text + b"\n\n"
    return None


def _form(refusal: Refusal, dialect: Dialect, request_id: str) -> dict[str, object]:
    shape = SHAPES[refusal.reason]
    if dialect == "ollama":
        return {"error": refusal.message}
    if dialect == "openai":
        param = "model" if refusal.reason == "model_not_found" else None
        return {"error": {"message": refusal.message, "type": shape.openai, "param": param, "code": shape.code}}
    error = {"type": shape.anthropic, "message": refusal.message}
    return {"type": "error", "error": error, "request_id": request_id}
