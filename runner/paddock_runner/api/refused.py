"""Routes of the Ollama, OpenAI and Anthropic APIs that a runner does not have, with a clear answer each. For `app`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from paddock_runner.api.errors import ApiError

Handler = Callable[[Request], Awaitable[Response]]

_MANAGED = "this runner serves one model from a read-only cache; manage models with manifests or the `paddock` command"
_LATER = "is not supported yet"

REFUSED: tuple[tuple[str, tuple[str, ...], int, str], ...] = (
    ("/api/pull", ("POST",), 403, _MANAGED),
    ("/api/push", ("POST",), 403, _MANAGED),
    ("/api/create", ("POST",), 403, _MANAGED),
    ("/api/copy", ("POST",), 403, _MANAGED),
    ("/api/delete", ("DELETE",), 403, _MANAGED),
    ("/api/blobs/{digest}", ("POST", "HEAD"), 403, _MANAGED),
    ("/v1/responses", ("POST",), 501, f"/v1/responses {_LATER}; use /v1/chat/completions"),
    ("/v1/audio/transcriptions", ("POST",), 501, f"/v1/audio/transcriptions {_LATER}"),
    ("/v1/messages", ("POST",), 501, f"/v1/messages {_LATER}; use /v1/chat/completions"),
)


def refuse(status: int, message: str) -> Handler:
    """A handler that answers with this error, in the dialect of its route."""

    async def handler(request: Request) -> Response:
        code = "forbidden" if status == 403 else "not_implemented"
        raise ApiError(status, message, reason="unsupported", code=code)

    return handler
