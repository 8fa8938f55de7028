"""Errors of `core.generation` across the socket: an exception in the engine is the same exception in the front.

Called by `engine.loop` (to the wire) and `engine.client` (from it).
"""

from __future__ import annotations

from paddock_runner.core.generation import (
    ContextExceededError,
    EngineFailedError,
    GenerationError,
    InvalidRequestError,
    QueueFullError,
)
from paddock_runner.engine.protocol import Failed


def to_wire(error: GenerationError) -> Failed:
    """The event that ends a sequence with `error`."""
    if isinstance(error, ContextExceededError):
        return Failed("context", str(error), numbers=(error.prompt_tokens, error.limit))
    if isinstance(error, InvalidRequestError):
        return Failed("invalid", str(error).removeprefix(f"{error.field}: "), field=error.field)
    if isinstance(error, QueueFullError):
        return Failed("queue", str(error), numbers=(error.waiting, round(error.retry_after)))
    return Failed("failed", str(error))


def from_wire(failed: Failed) -> GenerationError:
    """The exception that the front raises for `failed`."""
    if failed.kind == "context" and len(failed.numbers) == 2:
        return ContextExceededError(*failed.numbers)
    if failed.kind == "invalid":
        return InvalidRequestError(failed.field, failed.message)
    if failed.kind == "queue" and len(failed.numbers) == 2:
        return QueueFullError(*failed.numbers)
    return EngineFailedError(failed.message)
