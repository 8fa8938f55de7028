"""A runner's front over a scripted engine, in this process: the tests of `tests/api` start here.

`ScriptedEngine` offers what the front needs of the real client (`api.runner.Engine`) and answers from a list. The
rendering, the schemas, the application and the server are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from tests.support.waiting import until_sync

from paddock_runner.api.app import build_app
from paddock_runner.api.facts import ModelFacts
from paddock_runner.api.metrics import Metrics
from paddock_runner.api.runner import Runner
from paddock_runner.api.settings import ServeConfig, parse_settings
from paddock_runner.core.chat import CHATML, Message
from paddock_runner.core.embedding import Embedded, EmbedDone, EmbedEvent, EmbedRequest
from paddock_runner.core.engine_facts import MemoryNumbers, StepStats, VocabFacts
from paddock_runner.core.generation import (
    Delta,
    Event,
    Finished,
    GenerationRequest,
    Started,
    TokenLogprob,
)
from paddock_runner.core.options import Options
from paddock_runner.httpd import GuardedProtocol
from paddock_runner.templating.client import TemplateWorker

VOCAB = VocabFacts(1000, 1, 2, "<|im_start|>", "<|im_end|>", False, CHATML, 8192, "scripted")
MEMORY = MemoryNumbers(1000, 200, 30, 4, 5000)
DIGEST = "sha256:" + "ab" * 32
Step = Event | Exception | Callable[[], Awaitable[None]]
FINISHED = Finished("stop", None, 7, 2, 0.001, 0.002, 0.003)


def logprob(token: int, piece: str, value: float, top: tuple[tuple[int, bytes, float], ...] = ()) -> TokenLogprob:
    return TokenLogprob(token, piece.encode(), value, top)


def answer(*texts: str, finished: Finished = FINISHED) -> list[Step]:
    """The events of a generation that says `texts`, one token each."""
    deltas = [Delta(text, (100 + index,)) for index, text in enumerate(texts)]
    return [Started(7, 3, tuple(range(7))), *deltas, finished]


@dataclass
class ScriptedEngine:
    """`script` is played for every request; an exception in it is raised, a function awaited."""

    script: list[Step] = field(default_factory=lambda: answer("Hello", " world"))
    state: str = "ready"
    reason: str = ""
    vocab: VocabFacts | None = VOCAB
    memory: MemoryNumbers | None = MEMORY
    cells: int = 0
    restarts: int = 0
    oom_kills: int = 0
    open_requests: int = 0
    stats: StepStats | None = None
    queue_depth: int = 64
    requests: list[GenerationRequest] = field(default_factory=list)
    keep_alives: list[float] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    cancelled: int = 0

    async def start(self) -> VocabFacts:
        self.vocab = self.vocab or VOCAB
        return self.vocab

    async def load(self) -> None:
        self.calls.append("load")

    async def unload(self) -> None:
        self.calls.append("unload")

    async def close(self) -> None:
        self.calls.append("close")

    def keep_alive(self, seconds: float) -> None:
        self.keep_alives.append(seconds)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.requests.append(request)
        self.open_requests += 1
        complete = False
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    complete = True
                    raise step
                if isinstance(step, Started | Delta | Finished):
                    complete = isinstance(step, Finished)
                    yield step
                else:
                    await step()
        finally:
            self.open_requests -= 1
            self.cancelled += not complete

    def embed(self, request: EmbedRequest) -> AsyncIterator[EmbedEvent]:
        raise AssertionError("a model that generates is never asked for vectors")


@dataclass
class EmbeddingEngine(ScriptedEngine):
    """Answers every text with `vector`, last text first; `failure` is raised after the first answer."""

    vector: tuple[float, ...] = (0.75, -0.5)
    scores: dict[str, float] = field(default_factory=dict)
    failure: Exception | None = None
    wanted: list[EmbedRequest] = field(default_factory=list)

    async def embed(self, request: EmbedRequest) -> AsyncIterator[EmbedEvent]:
        self.wanted.append(request)
        self.open_requests += 1
        complete = False
        try:
            for index in reversed(range(len(request.texts))):
                numbers = self.vector if request.query is None else (self.scores[request.texts[index].text],)
                yield Embedded(index, 3 + index, array("f", numbers).tobytes())
                await asyncio.sleep(0)
                if self.failure is not None:
                    complete = True
                    raise self.failure
            complete = True
            yield EmbedDone(sum(3 + index for index in range(len(request.texts))), 0.0, 0.0)
        finally:
            self.open_requests -= 1
            self.cancelled += not complete


async def forever() -> None:
    """A step that never ends by itself."""
    await asyncio.Event().wait()


def config_json(**changes: Any) -> dict[str, Any]:
    """A serve configuration as `paddock up` writes it."""
    base: dict[str, Any] = {
        "version": 1, "namespace": "default", "name": "tiny", "names": ["tiny", "tiny:135m"], "models": "/nowhere",
        "digest": DIGEST, "anonymous": True,
        "engine": {
            "mode": "generate", "contextLength": 2048, "slots": 2, "cells": 4096, "sequences": 2, "batch": 512,
            "prefixBytes": 0,
            "typeK": "f16", "typeV": "f16", "flashAttention": "auto", "mmap": True, "mlock": False,
            "gpuLayers": 0, "threads": 0,
        },
    }  # fmt: skip
    return {**base, **changes}


@dataclass
class StaticConfig:
    value: ServeConfig
    sha256: str = "0" * 64

    def replace(self, **changes: Any) -> None:
        self.value = parse_settings(json.dumps(config_json(**changes)).encode())


def model_facts(**changes: Any) -> ModelFacts:
    base: dict[str, Any] = {
        "digest": DIGEST, "size": 98_362_432, "modified_at": "2026-01-01T00:00:00Z", "family": "llama",
        "parameter_size": "134.52M", "quantization": "Q4_1", "context_train": 8192, "embedding_length": 576,
        "capabilities": ("completion",),
        "stored_show": lambda: {"license": "Apache-2.0", "modelfile": "FROM x\n", "system": "stored", "tensors": [],
            "model_info": {"general.architecture": "llama"}},
    }  # fmt: skip
    return ModelFacts(**{**base, **changes})


@dataclass
class Front:
    """One front: drive it with `client`, look at `engine`."""

    engine: ScriptedEngine
    config: StaticConfig
    runner: Runner
    app: Any
    client: httpx.AsyncClient

    @property
    def request(self) -> GenerationRequest:
        """What the engine was asked for last."""
        return self.engine.requests[-1]

    @property
    def prompt(self) -> str:
        return "".join(segment.text for segment in self.request.prompt)

    def sample(self, name: str, **labels: str) -> float:
        value = self.runner.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


@contextlib.asynccontextmanager
async def front(
    engine: ScriptedEngine | None = None,
    *,
    system: str | None = None,
    options: Options | None = None,
    preset: Sequence[Message] = (),
    template: str | None = None,
    chat_template: str | None = None,
    mode: str = "generate",
    **config: Any,
) -> AsyncIterator[Front]:
    """A front whose manifest holds the named layers; other keywords change the serve configuration."""
    engine = engine or ScriptedEngine()
    base = config_json(**config)
    base["engine"] = {**base["engine"], "mode": mode}
    settings = StaticConfig(parse_settings(json.dumps(base).encode()))
    facts = model_facts(
        system=system, options=options or {}, preset=tuple(preset), template=template, chat_template=chat_template
    )
    templates = TemplateWorker()
    runner = Runner(engine, settings, facts, templates, Metrics("tiny"))
    app = build_app(runner)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://runner") as client:
        try:
            yield Front(engine, settings, runner, app, client)
        finally:
            await templates.close()


def events_of(body: str) -> list[Any]:
    """The JSON of each `data:` event; the end marker as it is."""
    datas = [part.removeprefix("data: ") for part in body.split("\n\n") if part]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def lines_of(body: str) -> list[Any]:
    """The JSON of each line."""
    return [json.loads(line) for line in body.splitlines()]


@contextlib.contextmanager
def served(engine: ScriptedEngine, **config: Any) -> Iterator[tuple[str, Runner]]:
    """The front behind a real server on loopback, in a thread; yields (base URL, runner)."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings = StaticConfig(parse_settings(json.dumps(config_json(**config)).encode()))
    runner = Runner(engine, settings, model_facts(), TemplateWorker(), Metrics("tiny"))

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await runner.templates.close()

    settings_of_server = uvicorn.Config(
        build_app(runner, lifespan), http=GuardedProtocol, log_config=None, lifespan="on", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(settings_of_server)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until_sync(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", runner
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()
