"""Ollama's read-only routes: `/`, version, tags, show, ps. Called by `app`; a runner knows exactly one model.

Every name of the Model is listed, since clients look for the one they were told.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from paddock_runner.api import body as bodies
from paddock_runner.api.context import runner_of
from paddock_runner.api.errors import ApiError
from paddock_runner.api.facts import ModelFacts
from paddock_runner.api.ollama_answer import stamp
from paddock_runner.api.ollama_schema import ShowBody
from paddock_runner.api.runner import Runner
from paddock_runner.core.compat import OLLAMA_VERSION
from paddock_runner.core.modelfile import format_parameters
from paddock_runner.core.options import Options, merge
from paddock_runner.core.public_names import tagged


async def root(request: Request) -> Response:
    """GET /: what clients call to see whether a server is there."""
    return PlainTextResponse("Ollama is running")


async def version(request: Request) -> Response:
    """GET /api/version."""
    return JSONResponse({"version": OLLAMA_VERSION})


async def tags(request: Request) -> Response:
    """GET /api/tags."""
    runner = runner_of(request)
    facts = runner.facts
    common = {
        "modified_at": facts.modified_at,
        "size": facts.size,
        "digest": facts.digest.removeprefix("sha256:"),
        "details": details(facts),
        "capabilities": list(facts.capabilities),
    }
    return JSONResponse({"models": [{"name": name, "model": name, **common} for name in shown_names(runner)]})


async def ps(request: Request) -> Response:
    """GET /api/ps: the model, if its weights are loaded."""
    runner = runner_of(request)
    memory = runner.engine.memory
    if runner.engine.state != "ready" or memory is None:
        return JSONResponse({"models": []})
    name = shown_names(runner)[0]
    entry = {
        "name": name,
        "model": name,
        "size": memory.weights + memory.kv + memory.compute + memory.output,
        "digest": runner.facts.digest.removeprefix("sha256:"),
        "details": details(runner.facts),
        "expires_at": stamp(time.time_ns() + int(runner.expires_in()) * 1_000_000_000),
        "size_vram": 0,
        "context_length": runner.config.record.context_length,
    }
    return JSONResponse({"models": [entry]})


async def show(request: Request) -> Response:
    """POST /api/show."""
    runner, body = runner_of(request), await bodies.read(request, ShowBody)
    name = body.model or body.name
    if not name:
        raise ApiError(400, "model is required", reason="not_found", param="model")
    if not runner.serves(name):
        raise ApiError(404, f"model '{tagged(name[:200])}' not found", reason="not_found", param="model")
    return JSONResponse(shown(runner, await asyncio.to_thread(runner.facts.stored_show)))


def shown(runner: Runner, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The reply of `/api/show`: the store's answer with what the configuration says instead."""
    config, facts = runner.config, runner.facts
    vocab = runner.engine.vocab
    own_template = facts.chat_template or (vocab.chat_template if vocab else None)
    messages = config.preset or list(facts.preset)
    effective: dict[str, Any] = {
        "parameters": parameter_text(merge(config.options, facts.options)),
        "template": config.template or own_template or facts.template or "",
        "system": config.system if config.system is not None else facts.system,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "modelfile": without_paths(str(stored.get("modelfile", "")), shown_names(runner)[0]),
    }
    kept = {key: value for key, value in stored.items() if key not in effective}
    return {**kept, **{key: value for key, value in effective.items() if value or key == "template"}}


_BLOB_LINE = re.compile(r"^(FROM|ADAPTER) .*/sha256-([0-9a-f]{64})$", re.MULTILINE)


def without_paths(modelfile: str, name: str) -> str:
    """A Modelfile for callers of the API: where files lie on the server is none of their business."""
    return _BLOB_LINE.sub(lambda line: f"FROM {name}" if line[1] == "FROM" else f"ADAPTER sha256:{line[2]}", modelfile)


def shown_names(runner: Runner) -> list[str]:
    """The Model's names as lists show them, each once."""
    return list(dict.fromkeys(tagged(name) for name in runner.config.names))


def details(facts: ModelFacts) -> dict[str, Any]:
    """The `details` object of tags, show and ps."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": facts.family,
        "families": [facts.family],
        "parameter_size": facts.parameter_size,
        "quantization_level": facts.quantization,
        **({"context_length": facts.context_train} if facts.context_train else {}),
        **({"embedding_length": facts.embedding_length} if facts.embedding_length else {}),
    }


def parameter_text(options: Options) -> str:
    """One `name value` line per parameter, as `ollama show` prints them."""
    return format_parameters(dict(sorted(options.items())))
