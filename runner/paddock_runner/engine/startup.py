"""From a vocabulary to a serving loop: hello, load, self-test, ready. Called by `engine.child`; any `Backend`."""

from __future__ import annotations

import dataclasses
import os
import time
from contextlib import closing

from paddock_runner.core.embed_scheduler import Piece, Text
from paddock_runner.core.generation import InvalidRequestError, Sampling
from paddock_runner.core.sequence import Chunk, Sequence
from paddock_runner.engine.backend import Backend, BackendError, NoCellsError, NonFiniteLogitsError, Sampler
from paddock_runner.engine.embed_backend import EmbedBackend
from paddock_runner.engine.embed_loop import EmbedLoop
from paddock_runner.engine.embed_vectors import finished_vector
from paddock_runner.engine.grammar import Table
from paddock_runner.engine.link import FrameLink, LinkClosedError
from paddock_runner.engine.loop import EngineLoop
from paddock_runner.engine.procfs import resident_bytes
from paddock_runner.engine.protocol import PROTOCOL_VERSION, Hello, Load, Progress, Ready, Shutdown
from paddock_runner.engine.step_note import StepNote

_PROGRESS_STEP = 0.05
_TEST_TOKENS = 4
_TEST_ROUNDS = 3


def serve(backend: Backend, link: FrameLink, note: StepNote) -> None:
    """Until the front says Shutdown. Raises LinkClosedError when it is gone, BackendError when the process must end."""
    link.send(Hello(PROTOCOL_VERSION, backend.vocab))
    load = link.receive_one()
    if isinstance(load, Shutdown):
        return
    if not isinstance(load, Load):
        raise LinkClosedError(f"the front sent {type(load).__name__} before Load")
    if load.record.mode == "generate":
        _serve_text(backend, link, load, note)
    else:
        _serve_vectors(backend.embedder(), link, load, note)


def _serve_text(backend: Backend, link: FrameLink, load: Load, note: StepNote) -> None:
    began = time.monotonic()
    loaded = backend.load(load.record, _Reporter(link))
    first_ms = self_test(backend)
    table = Table(backend, backend.vocab.size)
    memory = dataclasses.replace(loaded.memory, resident=resident_bytes(os.getpid()))
    seconds = time.monotonic() - began
    link.send(Ready(memory, seconds, loaded.threads, loaded.flash_attention, loaded.cells))
    with closing(EngineLoop(backend, link, load, loaded, table, first_ms=first_ms, note=note)) as loop:
        loop.run()


def _serve_vectors(backend: EmbedBackend, link: FrameLink, load: Load, note: StepNote) -> None:
    began = time.monotonic()
    loaded = backend.load(load.record, _Reporter(link))
    first_ms = vector_self_test(backend)
    memory = dataclasses.replace(loaded.memory, resident=resident_bytes(os.getpid()))
    seconds = time.monotonic() - began
    link.send(Ready(memory, seconds, loaded.threads, loaded.flash_attention, loaded.cells))
    with closing(EmbedLoop(backend, link, load, loaded, first_ms=first_ms, note=note)) as loop:
        loop.run()


def vector_self_test(backend: EmbedBackend) -> float:
    """Compute the vector of a few tokens. Returns the least milliseconds of one token among them.

    Raises BackendError when it fails or the vector is not finite.
    """
    tokens = [max(backend.vocab.bos, 0)] * _TEST_TOKENS
    times = []
    for _ in range(_TEST_ROUNDS):
        began = time.monotonic()
        (vector,) = backend.run([Piece(Text(0, 0, tokens, slot=0), 0, tokens, last=True)])
        times.append((time.monotonic() - began) * 1000 / _TEST_TOKENS)
        try:
            finished_vector(vector, 0, score=False)
        except InvalidRequestError as error:
            raise BackendError(f"self-test: {error}; the file is damaged") from error
    return min(times)


def self_test(backend: Backend) -> float:
    """Decode a few tokens one by one. Returns the milliseconds of the fastest: what one costs undisturbed.

    Raises BackendError when it fails or the model's output is not a number.
    """
    token = max(backend.vocab.bos, 0)
    sequence = Sequence(0, [token] * _TEST_TOKENS, _TEST_TOKENS + 1)
    sequence.slot = 0
    sampler = backend.open_sampler(Sampling(temperature=0.0), ())
    times = []
    for position in range(_TEST_TOKENS):
        began = time.monotonic()
        _decode_finite(backend, sequence, position, sampler)
        times.append((time.monotonic() - began) * 1000)
    sampler.close()
    backend.remove(0)
    return min(times)


def _decode_finite(backend: Backend, sequence: Sequence, position: int, sampler: Sampler) -> None:
    try:
        backend.decode([Chunk(sequence, position, sequence.tokens[position : position + 1], True)])
        backend.sample(0, sampler)
    except NonFiniteLogitsError as error:
        raise BackendError("self-test: the model's output is not a number; the file is damaged") from error
    except NoCellsError as error:
        raise BackendError("self-test: the KV cache has no room for four tokens") from error


class _Reporter:
    """Progress frames, a few of them only."""

    def __init__(self, link: FrameLink) -> None:
        self._link = link
        self._next = 0.0

    def __call__(self, fraction: float) -> None:
        if fraction >= self._next:
            self._next = fraction + _PROGRESS_STEP
            self._link.send(Progress(fraction))
