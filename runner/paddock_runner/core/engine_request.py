"""Checks of a generation request that the engine makes for every dialect. Called by `engine.loop`."""

from __future__ import annotations

from paddock_runner.core.engine_sampling import MAX_LOGPROBS
from paddock_runner.core.generation import Constraint, GenerationRequest, InvalidRequestError
from paddock_runner.core.stops import MAX_STOP_CHARACTERS, MAX_STOPS

MAX_GRAMMAR_BYTES = 64 * 1024


def check_request(request: GenerationRequest, vocab_size: int) -> None:
    """Raises InvalidRequestError naming the field. Sampling has its own check (`core.engine_sampling`)."""
    if request.max_tokens == 0:
        raise InvalidRequestError("max_tokens", "must be at least 1; a negative number means no bound")
    if request.context_limit < 0:
        raise InvalidRequestError("context_limit", "must not be negative; 0 means the model's own")
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
        raise InvalidRequestError("logprobs", f"must be between 0 and {MAX_LOGPROBS}")
    _check_stops(request.stop)
    if request.constraint is not None:
        _check_constraint(request.constraint, vocab_size)
    for segment in request.prompt:
        if any(not 0 <= token < vocab_size for token in segment.tokens):
            raise InvalidRequestError("prompt", f"has a token id outside 0 to {vocab_size - 1}")


def _check_constraint(constraint: Constraint, vocab_size: int) -> None:
    size = len(constraint.grammar.encode())
    if size > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(constraint.field, f"has {size} bytes, at most {MAX_GRAMMAR_BYTES} are allowed")
    if constraint.after_token >= vocab_size or len(constraint.after_text) > MAX_STOP_CHARACTERS:
        raise InvalidRequestError(constraint.field, "begins after something that is no token or too long a text")


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError("stop", f"has {len(stops)} strings, at most {MAX_STOPS} are allowed")
    if any(not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
        raise InvalidRequestError("stop", f"must hold strings of 1 to {MAX_STOP_CHARACTERS} characters")
