"""Vectors: Ollama's `/api/embed` and `/api/embeddings`, OpenAI's `/v1/embeddings`. Called by `app`.

Empty inputs and lists are answered as the real servers do. Known differences from Ollama: an input of token ids is
taken (as OpenAI takes it), more dimensions than the model has are an error on the OpenAI route, and errors are 400 with
both numbers where Ollama's are 500.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from paddock_runner.api import body as bodies
from paddock_runner.api.context import runner_of, tenant_of
from paddock_runner.api.embed_schema import MAX_TOKENS, OllamaEmbedBody, OllamaEmbeddingsBody, OpenAIEmbedBody
from paddock_runner.api.embedding_run import Embeddings, numbers_text, reply
from paddock_runner.api.errors import ApiError
from paddock_runner.api.modes import must_be
from paddock_runner.api.ollama import MIN_CONTEXT, granted
from paddock_runner.api.openai import check_model
from paddock_runner.api.runner import Runner
from paddock_runner.core.durations import nanoseconds, parse_keep_alive
from paddock_runner.core.embedding import MAX_TEXTS, EmbedRequest
from paddock_runner.core.generation import Segment
from paddock_runner.core.options import INT32, OptionError, integer, parse_options
from paddock_runner.logs import request_id


async def embed(request: Request) -> Response:
    """POST /api/embed."""
    runner, body = runner_of(request), await bodies.read(request, OllamaEmbedBody)
    texts = _ollama_texts(body.input)
    model = body.model or ""
    keep_alive = granted(request, _check(runner, model, body.keep_alive, 404, "model '' not found"))
    if not texts:
        await _load(runner, keep_alive)
        return JSONResponse({"model": model, "embeddings": []})
    wanted = EmbedRequest(
        request_id=request_id.get(),
        texts=texts,
        truncate=body.truncate is not False,
        dimensions=body.dimensions or 0,
        context_limit=_context_limit(body.options),
        tenant=tenant_of(request),
    )
    return reply(request, wanted, "embeddings", lambda found: _ollama_reply(model, found), keep_alive)


async def embeddings(request: Request) -> Response:
    """POST /api/embeddings: one vector, the older form."""
    runner, body = runner_of(request), await bodies.read(request, OllamaEmbeddingsBody)
    keep_alive = granted(request, _check(runner, body.model or "", body.keep_alive, 400, "model is required"))
    if not body.prompt:
        await _load(runner, keep_alive)
        return JSONResponse({"embedding": []})
    limit, tenant = _context_limit(body.options), tenant_of(request)
    wanted = EmbedRequest(request_id.get(), (Segment(body.prompt, True),), context_limit=limit, tenant=tenant)
    return reply(request, wanted, "embeddings", _older_reply, keep_alive)


async def openai_embeddings(request: Request) -> Response:
    """POST /v1/embeddings."""
    runner, body = runner_of(request), await bodies.read(request, OpenAIEmbedBody)
    texts = _openai_texts(body.input)
    check_model(runner, body.model)
    must_be(runner, "embed", body.model)
    width = runner.facts.embedding_length
    if body.dimensions and width and body.dimensions > width:
        text = f"dimensions: is {body.dimensions}, but the model's vectors have {width}"
        raise ApiError(400, text, param="dimensions", code="invalid_value")
    wanted = EmbedRequest(
        request_id=request_id.get(),
        texts=texts,
        truncate=body.truncate is not False,
        dimensions=body.dimensions or 0,
        tenant=tenant_of(request),
    )
    as_base64 = body.encoding_format == "base64"
    return reply(request, wanted, "embeddings", lambda found: _openai_reply(body.model, found, as_base64=as_base64))


def _check(runner: Runner, model: str, keep_alive: Any, missing: int, missing_text: str) -> float | None:
    if not model:
        raise ApiError(missing, missing_text, reason="not_found", param="model")
    if not runner.serves(model):
        text = f'model "{model[:200]}" not found, try pulling it first'
        raise ApiError(404, text, reason="not_found", param="model")
    must_be(runner, "embed", model)
    try:
        return parse_keep_alive(keep_alive)
    except ValueError as error:
        raise ApiError(400, str(error), param="keep_alive") from None


def _context_limit(options: dict[str, Any] | None) -> int:
    try:
        asked = integer(parse_options(options or {}), "num_ctx", 0)
    except OptionError as error:
        raise ApiError(400, str(error), param=f"options.{error.field}") from None
    return max(asked, MIN_CONTEXT) if asked > 0 else 0


async def _load(runner: Runner, keep_alive: float | None) -> None:
    runner.set_keep_alive(keep_alive)
    await runner.load()


def _ollama_texts(given: Any) -> tuple[Segment, ...]:
    """Ollama's rules: nothing and an empty text mean "load the model", in a list an empty text counts."""
    if given is None or given == "":
        return ()
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "invalid input type", param="input")
    return _segments(texts)


def _openai_texts(given: Any) -> tuple[Segment, ...]:
    """A text, a list of texts, a list of token ids, or a list of such lists."""
    if given is None or given == []:
        raise ApiError(400, "invalid input", param="input", code="invalid_value")
    if isinstance(given, str):
        return _segments([given])
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        return _segments(given)
    many = given if isinstance(given, list) and all(isinstance(item, list) for item in given) else [given]
    _check_count(len(many))
    return tuple(Segment(tokens=_tokens(tokens)) for tokens in many)


def _tokens(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or not all(type(token) is int and 0 <= token <= INT32 for token in given):
        raise ApiError(400, "invalid input type", param="input", code="invalid_value")
    if not 1 <= len(given) <= MAX_TOKENS:
        text = f"input: {len(given)} token ids, must be 1 to {MAX_TOKENS}"
        raise ApiError(400, text, param="input", code="invalid_value")
    return tuple(given)


def _segments(texts: list[str]) -> tuple[Segment, ...]:
    _check_count(len(texts))
    return tuple(Segment(text, special=True) for text in texts)


def _check_count(count: int) -> None:
    if count > MAX_TEXTS:
        text = f"input: has {count} texts, at most {MAX_TEXTS} are allowed; send several requests"
        raise ApiError(400, text, param="input", code="invalid_value")


def _ollama_reply(model: str, found: Embeddings) -> bytes:
    vectors = ",".join(numbers_text(item.vector) for item in found.found)
    numbers = {
        "total_duration": nanoseconds(found.total_seconds),
        "load_duration": nanoseconds(found.load_seconds),
        "prompt_eval_count": found.tokens,
    }
    return f'{{"model":{json.dumps(model)},"embeddings":[{vectors}],{json.dumps(numbers)[1:]}'.encode()


def _older_reply(found: Embeddings) -> bytes:
    return f'{{"embedding":{numbers_text(found.found[0].vector)}}}'.encode()


def _openai_reply(model: str, found: Embeddings, *, as_base64: bool) -> bytes:
    entries = ",".join(
        f'{{"object":"embedding","embedding":{_vector(item.vector, as_base64)},"index":{item.index}}}'
        for item in found.found
    )
    usage = json.dumps({"prompt_tokens": found.tokens, "total_tokens": found.tokens})
    return f'{{"object":"list","data":[{entries}],"model":{json.dumps(model)},"usage":{usage}}}'.encode()


def _vector(vector: bytes, as_base64: bool) -> str:
    return f'"{base64.b64encode(vector).decode()}"' if as_base64 else numbers_text(vector)
