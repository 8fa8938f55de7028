"""One request to an embedding engine, measured, and the reply that ends it when the client leaves. Called by
`api.embed` and `api.rerank`.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request

from paddock_runner.api.context import arrival_of, refusal, runner_of
from paddock_runner.api.errors import ApiError, as_api_error, error_body
from paddock_runner.api.metrics import Operation
from paddock_runner.api.ollama_answer import encoded
from paddock_runner.api.runner import Measured, Runner
from paddock_runner.api.streaming import Chunks, GeneratedReply
from paddock_runner.core.embedding import Embedded, EmbedDone, EmbedRequest
from paddock_runner.core.generation import ContextExceededError, DrainingError

# Writing this many numbers as text takes about 10 ms; more would hold up everybody's streams.
_NUMBERS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The answers in the order of the texts. `load_seconds` is from arrival until the first text was begun."""

    found: list[Embedded]
    tokens: int
    load_seconds: float
    total_seconds: float


def reply(
    request: Request,
    wanted: EmbedRequest,
    operation: Operation,
    encode: Callable[[Embeddings], bytes],
    keep_alive: float | None = None,
) -> GeneratedReply:
    """The response whose body is `encode` of the answers."""
    return GeneratedReply(
        _body(runner_of(request), wanted, operation, arrival_of(request), encode, keep_alive),
        media_type="application/json",
        refuse=lambda error: refusal(request, error),
        late=lambda error: encoded(error_body("ollama", error)),
    )


async def _body(
    runner: Runner,
    wanted: EmbedRequest,
    operation: Operation,
    arrived: float,
    encode: Callable[[Embeddings], bytes],
    keep_alive: float | None,
) -> Chunks:
    found = await compute(runner, wanted, operation, arrived, keep_alive)
    numbers = sum(len(item.vector) // 4 for item in found.found)
    yield await asyncio.to_thread(encode, found) if numbers > _NUMBERS_AT_ONCE else encode(found)


async def compute(
    runner: Runner, wanted: EmbedRequest, operation: Operation, arrived: float, keep_alive: float | None
) -> Embeddings:
    """All answers, measured. Raises GenerationError, and ApiError for a text that is too long."""
    measured = Measured(runner.metrics, operation, arrived, runner.now)
    found: dict[int, Embedded] = {}
    done = EmbedDone(0, 0.0, 0.0)
    try:
        if runner.draining:
            raise DrainingError
        async with aclosing(runner.engine.embed(wanted)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, EmbedDone):
                    done = event
                    measured.embedded(event)
                    continue
                if not found:
                    # Not earlier: a time of 0 would unload the model before this request holds it.
                    runner.set_keep_alive(keep_alive)
                found[event.index] = event
    except Exception as error:
        told = _told(error)
        measured.failed(told)
        raise told from error
    finally:
        runner.note_end()
        measured.close()
    total = runner.now() - arrived
    return Embeddings([found[index] for index in sorted(found)], done.tokens, total - done.compute_seconds, total)


def _told(error: Exception) -> ApiError:
    if not isinstance(error, ContextExceededError):
        return as_api_error(error)
    text = (
        f"the input length exceeds the context length: a text has {error.prompt_tokens} tokens, "
        f"the limit is {error.limit}; shorten it or raise spec.serving.contextLength"
    )
    return ApiError(400, text, reason="context", param="input", code="context_length_exceeded")


def numbers_text(vector: bytes) -> str:
    """A vector as a JSON list: nine digits are exactly a float32."""
    return "[" + ",".join(map("%.9g".__mod__, array("f", vector))) + "]"
