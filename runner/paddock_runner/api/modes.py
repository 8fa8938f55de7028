"""What a Model is for, told to those who ask for something else. Called by the dialects.

A Model's mode is chosen when it is loaded (spec.serving.mode): nothing makes a second context on demand, which would
take memory that no estimate knows of (docs/decisions/embeddings.md).
"""

from __future__ import annotations

from paddock_runner.api.errors import ApiError
from paddock_runner.api.runner import Runner
from paddock_runner.core.engine_record import Mode

_WANTED = {"embed": ("embeddings", "Embed"), "rerank": ("reranking", "Rerank")}


def must_generate(runner: Runner, model: str, verb: str) -> None:
    """Raises the 400 in Ollama's words when the Model is one for vectors or scores. `verb` is chat or generate."""
    mode = runner.config.record.mode
    if mode != "generate":
        named = _WANTED[mode][1]
        raise _wrong(f'"{model[:200]}" does not support {verb}; its spec.serving.mode is {named}')


def must_be(runner: Runner, mode: Mode, model: str) -> None:
    """Raises the 400 for a Model of another mode than `mode`, saying which Model to make."""
    if runner.config.record.mode != mode:
        what, named = _WANTED[mode]
        text = f'"{model[:200]}" does not support {what}; make a Model of such a source with spec.serving.mode: {named}'
        raise _wrong(text)


def _wrong(text: str) -> ApiError:
    return ApiError(400, text, reason="unsupported", param="model", code="unsupported_model")
