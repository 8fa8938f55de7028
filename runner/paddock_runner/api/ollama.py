"""Ollama's `/api/generate` and `/api/chat`: from their bodies to a GenerationRequest, from its events to their lines.

The order of decisions and the texts of errors are Ollama's. Known differences: a wrong option type is 400 and not 500,
a request's template is refused, a prompt that is too long is refused with both numbers instead of being cut, and no
option reloads the model: a larger `num_ctx` gets the declared context, and X-Paddock-Context-Length says so.
`keep_alive` counts for the request that brings it; one without it means the configured time.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from paddock_runner.api import body as bodies
from paddock_runner.api.constraints import from_format
from paddock_runner.api.context import arrival_of, refusal, runner_of, tenant_of
from paddock_runner.api.errors import ApiError, error_body, unsupported
from paddock_runner.api.metrics import Operation
from paddock_runner.api.modes import must_generate
from paddock_runner.api.ollama_answer import Answer, Kind, encoded, one_reply, stamp, stream
from paddock_runner.api.ollama_schema import ChatBody, GenerateBody, OllamaMessage
from paddock_runner.api.prompting import Prompt, chat_prompt, effective_template
from paddock_runner.api.runner import Runner
from paddock_runner.api.streaming import GeneratedReply
from paddock_runner.core.chat import Message, Tool, ToolCall
from paddock_runner.core.durations import parse_keep_alive
from paddock_runner.core.generation import GenerationRequest, Segment
from paddock_runner.core.options import OptionError, Options, integer, merge, parse_options, stops, to_sampling
from paddock_runner.core.parsers.tagged import TaggedCalls, knows_tools
from paddock_runner.core.public_names import tagged
from paddock_runner.logs import request_id

MIN_CONTEXT = 4
ROLES = ("system", "user", "assistant", "tool")
_THINK_WORDS = ("high", "medium", "low", "max")


async def generate(request: Request) -> Response:
    """POST /api/generate."""
    runner, body = runner_of(request), await bodies.read(request, GenerateBody)
    keep_alive = _check(runner, body, 404, f"model '{body.model[:200]}' not found")
    if not body.prompt and keep_alive == 0:
        return _unload(request, body.model, "generate")
    must_generate(runner, body.model, "generate")
    keep_alive = granted(request, keep_alive)
    _refuse_generate(body)
    options = _options(runner, body)
    if not body.prompt:
        return await _load(runner, body.model, "generate", keep_alive)
    return _answer(request, body, "generate", options, await _generate_prompt(runner, body), keep_alive)


async def chat(request: Request) -> Response:
    """POST /api/chat."""
    runner, body = runner_of(request), await bodies.read(request, ChatBody)
    keep_alive = _check(runner, body, 400, "model is required")
    if not body.messages and keep_alive == 0:
        return _unload(request, body.model, "chat")
    must_generate(runner, body.model, "chat")
    keep_alive = granted(request, keep_alive)
    await _check_tools(runner, body)
    messages = [_message(body.model, index, message) for index, message in enumerate(body.messages)]
    options = _options(runner, body)
    if not messages:
        return await _load(runner, body.model, "chat", keep_alive)
    tools = [Tool(tool.function) for tool in body.tools]
    prompt = await chat_prompt(runner, messages, tools=tools)
    return _answer(request, body, "chat", options, prompt, keep_alive)


async def _check_tools(runner: Runner, body: ChatBody) -> None:
    """Raises the 400 for tools, calls and answers of tools on a model whose template does not know them."""
    if not body.tools and not any(message.tool_calls or message.role == "tool" for message in body.messages):
        return
    template = effective_template(runner, await runner.vocab())
    if template is None or not knows_tools(template):
        raise _lacks(body.model, "tools")
    names = [tool.function["name"] for tool in body.tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ApiError(400, f'tools: "{twice[:64]}" is given twice; each name may be given once', param="tools")


def _check(runner: Runner, body: GenerateBody | ChatBody, missing: int, missing_text: str) -> float | None:
    """The checks that come first on both routes; returns the keep-alive in seconds."""
    if not 0 <= body.top_logprobs <= 20:
        raise ApiError(400, "top_logprobs must be between 0 and 20", param="top_logprobs")
    if not body.model:
        raise ApiError(missing, missing_text, reason="not_found", param="model")
    if not runner.serves(body.model):
        raise ApiError(404, f"model '{body.model[:200]}' not found", reason="not_found", param="model")
    _check_think(body)
    from_format(body.format)
    try:
        return parse_keep_alive(body.keep_alive)
    except ValueError as error:
        raise ApiError(400, str(error), param="keep_alive") from None


def _check_think(body: GenerateBody | ChatBody) -> None:
    think = body.think
    if think is None or think is False or think == "":
        return
    if think is True or think in _THINK_WORDS:
        raise ApiError(400, f'"{body.model[:200]}" does not support thinking', reason="unsupported", param="think")
    if isinstance(think, str):
        text = f'invalid think value: "{think[:64]}" (must be "high", "medium", "low", "max", true, or false)'
        raise ApiError(400, text, param="think")
    raise ApiError(
        400, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)', param="think"
    )


def _refuse_generate(body: GenerateBody) -> None:
    if body.raw and (body.template or body.system or body.context):
        raise ApiError(400, "raw mode does not support template, system, or context", param="raw")
    if body.template:
        text = "template: a request may not bring a template of its own; set spec.template of the Model"
        raise unsupported("template", text)
    if body.suffix:
        raise _lacks(body.model, "insert")
    if body.images:
        raise _lacks(body.model, "vision")


def _lacks(model: str, ability: str) -> ApiError:
    full = f"registry.ollama.ai/library/{tagged(model[:200])}" if "/" not in model else tagged(model[:200])
    return ApiError(400, f"{full} does not support {ability}", reason="unsupported", param=ability)


def _message(model: str, index: int, message: OllamaMessage) -> Message:
    if message.images:
        raise _lacks(model, "vision")
    if message.role not in ROLES:
        text = f"messages.{index}.role: must be one of {', '.join(ROLES)}"
        raise ApiError(400, text, param=f"messages.{index}.role")
    calls = tuple(ToolCall(call.function.name, call.function.arguments, call.id) for call in message.tool_calls)
    return Message(message.role, message.content, message.thinking, calls, message.tool_name, message.tool_call_id)


def _options(runner: Runner, body: GenerateBody | ChatBody) -> Options:
    try:
        own = parse_options(body.options)
    except OptionError as error:
        raise ApiError(400, str(error), param=f"options.{error.field}") from None
    defaults = merge(runner.config.options, runner.facts.options)
    # The model's own num_ctx is a load-time number that the serve configuration already settles.
    defaults.pop("num_ctx", None)
    return merge(own, defaults)


async def _generate_prompt(runner: Runner, body: GenerateBody) -> Prompt:
    if body.raw:
        return Prompt((Segment(text=body.prompt, special=True),))
    past = (Segment(tokens=tuple(body.context)),) if body.context else ()
    prompt = await chat_prompt(
        runner, [Message("user", body.prompt)], system=body.system or None, with_preset=not body.context
    )
    return Prompt((*past, *prompt.segments), add_bos=prompt.add_bos and not past)


def _generation(
    runner: Runner, body: GenerateBody | ChatBody, options: Options, prompt: Prompt, tenant: str
) -> GenerationRequest:
    asked = integer(options, "num_ctx", 0)
    smaller = 0 < asked < runner.config.record.context_length
    return GenerationRequest(
        request_id=request_id.get(),
        prompt=prompt.segments,
        max_tokens=max(-1, integer(options, "num_predict", -1)),
        sampling=to_sampling(options),
        stop=stops(options),
        constraint=from_format(body.format),
        logprobs=body.top_logprobs if body.logprobs else None,
        context_limit=max(MIN_CONTEXT, asked) if smaller else 0,
        add_bos=prompt.add_bos,
        tenant=tenant,
    )


def _answer(
    request: Request,
    body: GenerateBody | ChatBody,
    kind: Kind,
    options: Options,
    prompt: Prompt,
    keep_alive: float | None,
) -> GeneratedReply:
    runner, arrived = runner_of(request), arrival_of(request)
    with_context = isinstance(body, GenerateBody) and not body.raw
    calls = TaggedCalls(request_id.get()[:8]) if isinstance(body, ChatBody) and body.tools else None
    answer = Answer(body.model, kind, arrived, runner.now, with_context=with_context, calls=calls)
    operation: Operation = "chat" if kind == "chat" else "text_completion"
    generation = _generation(runner, body, options, prompt, tenant_of(request))
    events = runner.generate(generation, operation, arrived, keep_alive)
    declared = runner.config.record.context_length
    return GeneratedReply(
        stream(answer, events) if body.stream else one_reply(answer, events),
        media_type="application/x-ndjson" if body.stream else "application/json; charset=utf-8",
        refuse=lambda error: refusal(request, error),
        late=lambda error: encoded(error_body("ollama", error)) + b"\n",
        headers={"X-Paddock-Context-Length": str(declared)} if integer(options, "num_ctx", 0) > declared else None,
    )


def _may_manage(request: Request) -> bool:
    """The gateway says what the caller's key may do; who shows the backend credential without it is the operator."""
    verbs = request.headers.get("x-paddock-verbs")
    return verbs is None or "manage" in verbs.split(",")


def granted(request: Request, keep_alive: float | None) -> float | None:
    """The keep-alive that this caller gets: a key for inference may lengthen the configured one, never shorten it."""
    configured = runner_of(request).config.keep_alive_seconds
    if keep_alive is None or keep_alive < 0 or _may_manage(request):
        return keep_alive
    return keep_alive if 0 <= configured <= keep_alive else None


def _unload(request: Request, model: str, kind: Kind) -> Response:
    if not _may_manage(request):
        raise ApiError(403, "unloading a model needs a key with the verb manage", reason="auth", param="keep_alive")
    runner_of(request).unload_soon()
    return _done(model, kind, "unload")


async def _load(runner: Runner, model: str, kind: Kind, keep_alive: float | None) -> Response:
    runner.set_keep_alive(keep_alive)
    await runner.load()
    return _done(model, kind, "load")


def _done(model: str, kind: Kind, reason: str) -> Response:
    empty: dict[str, Any] = (
        {"response": ""} if kind == "generate" else {"message": {"role": "assistant", "content": ""}}
    )
    return JSONResponse({"model": model, "created_at": stamp(), **empty, "done": True, "done_reason": reason})
