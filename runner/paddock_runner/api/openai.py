"""OpenAI's chat completions, completions and models: from their bodies to a GenerationRequest. Called by `app`.

Absent sampling fields mean the model's own parameters, never a forced 1.0. `/v1/completions` continues the prompt as it
is, without a chat template. Fields whose feature does not exist here are refused by name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from paddock_runner.api import body as bodies
from paddock_runner.api.constraints import from_response_format
from paddock_runner.api.context import arrival_of, refusal, runner_of, tenant_of
from paddock_runner.api.errors import ApiError, error_body, unsupported
from paddock_runner.api.modes import must_generate
from paddock_runner.api.openai_answer import Answer, Kind, event, one_reply, stream
from paddock_runner.api.openai_schema import ChatBody, CompletionBody, OpenAIMessage
from paddock_runner.api.prompting import Prompt, chat_prompt
from paddock_runner.api.runner import Runner
from paddock_runner.api.streaming import GeneratedReply
from paddock_runner.core.chat import Message
from paddock_runner.core.generation import GenerationRequest, Segment
from paddock_runner.core.options import Options, integer, merge, stops, to_sampling
from paddock_runner.core.public_names import tagged
from paddock_runner.logs import request_id

_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")


async def models(request: Request) -> Response:
    """GET /v1/models."""
    runner = runner_of(request)
    names = dict.fromkeys(tagged(name) for name in runner.config.names)
    return JSONResponse({"object": "list", "data": [_model(runner, name) for name in names]})


async def model(request: Request) -> Response:
    """GET /v1/models/{id}; an id may hold slashes."""
    runner, name = runner_of(request), str(request.path_params["name"])
    check_model(runner, name)
    return JSONResponse(_model(runner, name))


def _model(runner: Runner, name: str) -> dict[str, Any]:
    created = int(datetime.fromisoformat(runner.facts.modified_at).timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "library"}


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    runner, body = runner_of(request), await bodies.read(request, ChatBody)
    check_model(runner, body.model)
    must_generate(runner, body.model, "chat")
    _refuse_chat(body)
    messages = [_message(index, item) for index, item in enumerate(body.messages)]
    prompt = await chat_prompt(runner, messages)
    limit = body.max_completion_tokens or body.max_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return _answer(request, body, "chat", prompt, limit, logprobs)


async def completions(request: Request) -> Response:
    """POST /v1/completions."""
    runner, body = runner_of(request), await bodies.read(request, CompletionBody)
    check_model(runner, body.model)
    must_generate(runner, body.model, "generate")
    _refuse_completion(body)
    return _answer(request, body, "text", Prompt((_verbatim(body.prompt),)), body.max_tokens, body.logprobs)


def check_model(runner: Runner, name: str) -> None:
    """Raises the 404 for a name that is not this Model's."""
    if not runner.serves(name):
        text = f"The model '{name[:200]}' does not exist"
        raise ApiError(404, text, reason="not_found", param="model", code="model_not_found")


def _refuse_common(body: ChatBody | CompletionBody) -> None:
    if body.n not in (None, 1):
        raise unsupported("n", f"n: {body.n} choices are not supported yet, only 1")


def _refuse_chat(body: ChatBody) -> None:
    _refuse_common(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs to be true", param="top_logprobs", code="invalid_value")
    from_response_format(body.response_format)
    for field in ("tools", "functions", "audio", "chat_template", "chat_template_kwargs"):
        if getattr(body, field):
            raise unsupported(field)
    if body.modalities not in (None, ["text"]):
        raise unsupported("modalities", 'modalities: only ["text"] is supported')


def _refuse_completion(body: CompletionBody) -> None:
    _refuse_common(body)
    for field in ("echo", "suffix"):
        if getattr(body, field):
            raise unsupported(field)
    if body.best_of not in (None, 1):
        raise unsupported("best_of", f"best_of: {body.best_of} is not supported yet, only 1")


def _message(index: int, message: OpenAIMessage) -> Message:
    where = f"messages.{index}"
    if message.tool_calls or message.function_call or message.role in ("tool", "function"):
        raise unsupported(where, f"{where}: tool calls are not supported yet")
    if message.content is None and message.role != "assistant":
        raise ApiError(400, f"{where}.content: is required", param=f"{where}.content", code="invalid_value")
    return Message("system" if message.role == "developer" else message.role, message.text)


def _verbatim(prompt: str | list[str] | list[int]) -> Segment:
    if isinstance(prompt, str):
        return Segment(text=prompt, special=True)
    texts = [item for item in prompt if isinstance(item, str)]
    if len(texts) == len(prompt) == 1:
        return Segment(text=texts[0], special=True)
    if texts or not prompt:
        raise unsupported("prompt", f"prompt: {len(prompt)} prompts are not supported, send exactly one")
    return Segment(tokens=tuple(item for item in prompt if isinstance(item, int)))


def _options(runner: Runner, body: ChatBody | CompletionBody) -> Options:
    own: Options = {name: getattr(body, name) for name in _SAMPLING if getattr(body, name) is not None}
    if body.stops:
        own["stop"] = tuple(body.stops)
    return merge(own, runner.config.options, runner.facts.options)


def _answer(
    request: Request,
    body: ChatBody | CompletionBody,
    kind: Kind,
    prompt: Prompt,
    limit: int | None,
    logprobs: int | None,
) -> GeneratedReply:
    runner, arrived = runner_of(request), arrival_of(request)
    options = _options(runner, body)
    generation = GenerationRequest(
        request_id=request_id.get(),
        prompt=prompt.segments,
        max_tokens=limit or max(-1, integer(options, "num_predict", -1)),
        sampling=to_sampling(options, body.biases),
        stop=stops(options),
        constraint=from_response_format(body.response_format) if isinstance(body, ChatBody) else None,
        logprobs=logprobs,
        add_bos=prompt.add_bos,
        tenant=tenant_of(request),
    )
    usage = bool(body.stream_options and body.stream_options.include_usage)
    answer = Answer(body.model, kind, request_id.get(), with_usage=usage)
    events = runner.generate(generation, "chat" if kind == "chat" else "text_completion", arrived)
    return GeneratedReply(
        stream(answer, events) if body.stream else one_reply(answer, events),
        media_type="text/event-stream" if body.stream else "application/json",
        refuse=lambda error: refusal(request, error),
        late=lambda error: event(error_body("openai", error)),
        headers={"Cache-Control": "no-cache"} if body.stream else None,
    )
