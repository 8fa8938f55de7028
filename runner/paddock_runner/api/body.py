"""Reading a request body within its bounds and turning it into a strict schema object. Called by the dialects.

Content-Type is not asked for, because plain `curl -d` and many Ollama clients do not set it; what is read is always one
UTF-8 JSON object. Messages never quote what was sent, only where it was wrong.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from paddock_runner.api.errors import ApiError
from paddock_runner.core.strict_json import JSONProblem, loads

Schema = TypeVar("Schema", bound=BaseModel)

MAX_BODY_BYTES = 4 * 1024 * 1024
READ_SECONDS = 30.0
MAX_DEPTH = 64


async def read(request: Request, schema: type[Schema]) -> Schema:
    """The body as `schema`. Raises ApiError: 400, 408, 413 or 415."""
    _check_head(request)
    try:
        async with asyncio.timeout(READ_SECONDS):
            body = await _bytes(request)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {READ_SECONDS:g} s", code="timeout") from None
    return parse(body, schema)


def parse(body: bytes, schema: type[Schema]) -> Schema:
    """`body` as `schema`. Raises ApiError 400."""
    try:
        value = loads(body, max_depth=MAX_DEPTH)
    except JSONProblem as error:
        raise ApiError(400, str(error), code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _first_problem(error) from None


def _check_head(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ApiError(415, "Content-Encoding is not supported; send the JSON as it is", code="unsupported_media_type")
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise ApiError(415, "multipart bodies are not supported; send JSON", code="unsupported_media_type")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()


async def _bytes(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise _too_large()
    except ClientDisconnect:
        raise ApiError(400, "the client left before the body was complete", code="disconnected") from None
    return bytes(body)


def _too_large() -> ApiError:
    message = f"the body is larger than {MAX_BODY_BYTES} bytes; send less"
    return ApiError(413, message, reason="too_large", code="request_too_large")


def _first_problem(error: ValidationError) -> ApiError:
    problem: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # Union branches add their own names to the path ("content.str"): clients know only their fields.
    where = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part.islower())
    where = where.replace(".str", "").replace(".list", "")
    message = str(problem["msg"]).removeprefix("Value error, ")
    text = message if not where or message.startswith(where) else f"{where}: {message}"
    return ApiError(400, text, param=where or None, code="invalid_value")
