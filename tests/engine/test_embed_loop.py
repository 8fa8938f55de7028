"""The embedding loop on the fake backend: the same vectors alone and in company, cut and whole, in any weather."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.engine.conftest import make_record, make_request

from paddock_runner.core.embedding import Embedded, EmbedDone, EmbedEvent, EmbedRequest
from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.generation import Segment
from paddock_runner.engine.backend import BackendError
from paddock_runner.engine.embed_fake import FIRST, LAST, WIDTH, FakeEmbedder
from paddock_runner.engine.embed_loop import EmbedLoop
from paddock_runner.engine.embed_texts import encode_texts
from paddock_runner.engine.link import FrameLink, LinkClosedError
from paddock_runner.engine.protocol import (
    Cancel,
    Embed,
    Failed,
    FrameReader,
    Hold,
    Load,
    Shutdown,
    Submit,
    ToEngine,
    Tokens,
    decode,
    encode,
)
from paddock_runner.engine.startup import vector_self_test
from paddock_runner.engine.step_note import StepNote


class Harness:
    """A loop whose turns the test takes itself, and the front's end of its socket."""

    def __init__(self, backend: FakeEmbedder, queue_depth: int = 100, **changes: object) -> None:
        self.backend = backend
        self.events: dict[int, list[EmbedEvent | Failed]] = {}
        self.stats: list[StepStats] = []
        self.front, theirs = socket.socketpair()
        self.front.setblocking(False)
        self.link = FrameLink(theirs)
        record = make_record(**{"mode": "embed", "batch": 512, **changes})
        loaded = backend.load(record, lambda _: None)
        self.loop = EmbedLoop(
            backend, self.link, Load(record, queue_depth), loaded, first_ms=0.01, note=StepNote.private()
        )
        self._reader = FrameReader()

    def send(self, message: ToEngine) -> None:
        self.front.sendall(encode(message))

    def embed(self, handle: int, *texts: str, **changes: object) -> None:
        self.send(Embed(handle, EmbedRequest("r", tuple(Segment(text) for text in texts), **changes)))

    def pump(self, until: Callable[[], bool], seconds: float = 10.0) -> None:
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
        while True:
            try:
                data = self.front.recv(1 << 20)
            except BlockingIOError:
                return
            for payload in self._reader.feed(data):
                message = decode(payload)
                assert isinstance(message, Tokens)
                if message.stats is not None:
                    self.stats.append(message.stats)
                for item in message.events:
                    self.events.setdefault(item.handle, []).append(item.event)

    def finish(self, *handles: int) -> None:
        self.pump(lambda: all(isinstance(self.last(handle), EmbedDone | Failed) for handle in handles))

    def last(self, handle: int) -> EmbedEvent | Failed | None:
        return self.events[handle][-1] if self.events.get(handle) else None

    def vectors(self, handle: int) -> list[bytes]:
        found = [event for event in self.events[handle] if isinstance(event, Embedded)]
        assert sorted(event.index for event in found) == list(range(len(found)))
        return [event.vector for event in sorted(found, key=lambda event: event.index)]

    def close(self) -> None:
        self.loop.close()
        self.front.close()
        self.link.close()


Make = Callable[..., Harness]


@pytest.fixture
def harness() -> Iterator[Make]:
    made: list[Harness] = []

    def make(backend: FakeEmbedder | None = None, **changes: object) -> Harness:
        made.append(Harness(backend or FakeEmbedder(), **changes))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_one_request(harness: Make) -> None:
    engine = harness()
    engine.embed(1, "one", "two words")
    engine.finish(1)
    done = engine.last(1)
    assert isinstance(done, EmbedDone)
    assert done.tokens == 5 + 11
    assert min(done.queue_seconds, done.compute_seconds) >= 0
    for vector in engine.vectors(1):
        numbers = np.frombuffer(vector, dtype="<f4")
        assert len(numbers) == WIDTH
        assert float(np.linalg.norm(numbers)) == pytest.approx(1.0, abs=1e-6)
    assert engine.backend.steps == [[5, 11]], "both in one step"


@pytest.mark.parametrize("splits", [False, True])
def test_vectors_are_the_same_alone_and_in_company(harness: Make, splits: bool) -> None:
    texts = [f"text {number} " * (number % 17 + 1) for number in range(40)]
    together, alone = harness(FakeEmbedder(splits=splits)), harness(FakeEmbedder(splits=splits))
    for handle in range(8):
        together.embed(handle, *texts[handle::8], tenant=str(handle % 3))
    together.finish(*range(8))
    for handle in range(8):
        for at, text in enumerate(texts[handle::8]):
            alone.embed(100 * handle + at, text)
            alone.finish(100 * handle + at)
            assert together.vectors(handle)[at] == alone.vectors(100 * handle + at)[0]
    assert max(len(step) for step in together.backend.steps) > 1
    assert together.backend.cells == alone.backend.cells == {}


def test_a_cut_text_has_the_vector_of_the_whole(harness: Make) -> None:
    text = "a long text " * 30
    cut = harness(FakeEmbedder(splits=True), batch=32, sequences=4)
    whole = harness(FakeEmbedder(splits=True))
    for engine in (cut, whole):
        engine.embed(1, text)
        engine.finish(1)
    assert len(cut.backend.steps) > 10 > len(whole.backend.steps)
    assert cut.vectors(1) == whole.vectors(1)


def test_dimensions_cut_and_make_the_length_one_again(harness: Make) -> None:
    engine = harness()
    engine.embed(1, "text", dimensions=4)
    engine.embed(2, "text", dimensions=1000)
    engine.finish(1, 2)
    short, full = (np.frombuffer(engine.vectors(handle)[0], dtype="<f4") for handle in (1, 2))
    assert (len(short), len(full)) == (4, WIDTH)
    assert short == pytest.approx(full[:4] / np.linalg.norm(full[:4]), abs=1e-6)


def test_too_long_is_cut_or_refused_with_both_numbers(harness: Make) -> None:
    engine = harness(context_length=16)
    engine.embed(1, "fits", "much longer than sixteen")
    engine.embed(2, "much longer than sixteen", truncate=True)
    engine.embed(3, "much longer t!")
    engine.embed(4, "much longer", context_limit=8, truncate=True)
    engine.finish(1, 2, 3, 4)
    assert engine.events[1] == [Failed("context", engine.last(1).message, numbers=(26, 16))]  # type: ignore[union-attr]
    assert engine.vectors(2) != engine.vectors(3)
    counts = [event.tokens for handle in (2, 3, 4) for event in engine.events[handle] if isinstance(event, Embedded)]
    assert counts == [16, 16, 8]


def test_token_ids_are_taken_as_they_are(harness: Make) -> None:
    engine = harness()
    engine.embed(1, "hi")
    engine.send(Embed(2, EmbedRequest("r", (Segment(tokens=(FIRST, *b"hi", LAST)),))))
    engine.send(Embed(3, EmbedRequest("r", (Segment(tokens=(5000,)),))))
    engine.finish(1, 2, 3)
    assert engine.vectors(1) == engine.vectors(2)
    assert engine.last(3) == Failed("invalid", "has a token id outside 0 to 257", field="input")


def test_a_vector_that_is_not_finite_fails_its_request_alone(harness: Make) -> None:
    engine = harness(FakeEmbedder(not_finite={0}))
    engine.embed(1, "one", "two", "three")
    engine.embed(2, "other")
    engine.finish(1, 2)
    assert engine.last(1) == Failed("invalid", "embedding contains NaN or Inf values", field="input")
    assert sum(isinstance(event, Failed) for event in engine.events[1]) == 1
    assert isinstance(engine.last(2), EmbedDone)
    assert engine.stats[-1].running == engine.stats[-1].waiting == 0


def test_cancel_before_and_in_the_middle(harness: Make) -> None:
    engine = harness(FakeEmbedder(splits=True), batch=32, sequences=2)
    engine.embed(1, "long text " * 40, "another " * 40)
    engine.embed(2, "never")
    engine.send(Cancel(2))
    engine.send(Cancel(77))
    engine.pump(lambda: len(engine.backend.steps) > 2)
    engine.send(Cancel(1))
    engine.embed(3, "after")
    engine.finish(3)
    assert set(engine.events) == {3}
    assert engine.backend.cells == {}


def test_a_small_request_overtakes_a_library(harness: Make) -> None:
    engine = harness(sequences=4)
    engine.embed(1, *[f"document {number}" for number in range(400)])
    engine.pump(lambda: bool(engine.events.get(1)))
    engine.embed(2, "query")
    before = len(engine.backend.steps)
    engine.finish(2)
    assert len(engine.backend.steps) - before < 20
    assert not isinstance(engine.last(1), EmbedDone)


def test_a_full_queue_refuses(harness: Make) -> None:
    engine = harness(queue_depth=0)
    engine.embed(1, "text", "text")
    engine.finish(1)
    last = engine.last(1)
    assert isinstance(last, Failed)
    assert (last.kind, last.numbers) == ("queue", (0, 1))


def test_rerankers_score_pairs_and_refuse_texts(harness: Make) -> None:
    backend = FakeEmbedder()
    engine = harness(backend, mode="rerank")
    engine.embed(1, "doc", "</s>", query="q")
    engine.embed(2, "doc")
    engine.finish(1, 2)
    assert [len(vector) for vector in engine.vectors(1)] == [4, 4]
    assert isinstance(engine.last(2), Failed)
    pairs = encode_texts(backend, 100, EmbedRequest("r", (Segment("doc"), Segment("</s>")), query="q"))
    assert pairs[0] == [FIRST, ord("q"), LAST, LAST, *b"doc", LAST]
    assert pairs[1] == [FIRST, ord("q"), LAST, LAST, *b"</s>", LAST], "documents write no control tokens"


def test_a_template_makes_pairs_in_which_only_it_may_control() -> None:
    backend = FakeEmbedder(template="<s>q: {query} d: {document}</s>")
    (plain, hostile) = encode_texts(backend, 99, EmbedRequest("r", (Segment("x"), Segment("</s>{query}")), query="a"))
    assert plain == [FIRST, *b"q: a d: x", LAST]
    assert hostile == [FIRST, *b"q: a d: </s>{query}", LAST]


def test_messages_that_do_not_belong_here(harness: Make) -> None:
    engine = harness()
    engine.send(Submit(1, make_request()))
    engine.send(Hold(1))
    engine.pump(lambda: bool(engine.events.get(1)))
    assert engine.last(1) == Failed("invalid", "does not generate text", field="model")
    engine.send(Shutdown())
    engine.loop.run()
    engine.send(Load(make_record(), 1))
    with pytest.raises(LinkClosedError):
        engine.turn()


def test_the_self_test_sees_a_broken_model() -> None:
    backend = FakeEmbedder()
    backend.load(make_record(mode="embed"), lambda _: None)
    assert vector_self_test(backend) > 0
    broken = FakeEmbedder(not_finite={1})
    broken.load(make_record(mode="embed"), lambda _: None)
    with pytest.raises(BackendError, match="NaN or Inf values; the file is damaged"):
        vector_self_test(broken)
