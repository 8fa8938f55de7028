"""Frames: everything survives the trip, nothing that is not exactly a message is accepted."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.conftest import make_record

from paddock_runner.core.engine_facts import MemoryNumbers, StepStats, VocabFacts
from paddock_runner.core.generation import (
    ContextExceededError,
    Delta,
    EngineFailedError,
    Finished,
    GenerationError,
    GenerationRequest,
    InvalidRequestError,
    QueueFullError,
    Sampling,
    Segment,
    Started,
    TokenLogprob,
)
from paddock_runner.engine import protocol
from paddock_runner.engine.codec import DecodeError
from paddock_runner.engine.failures import from_wire, to_wire
from paddock_runner.engine.protocol import FrameReader, decode, encode

LOGPROB = TokenLogprob(1, b"\xf0", -0.5, ((1, b"\xf0", -0.5), (2, b"a", -3.0)))
REQUEST = GenerationRequest(
    "id",
    (Segment("grüße", special=True), Segment(tokens=(1, 2, 3))),
    sampling=Sampling(seed=None, logit_bias=((5, -1.5),)),
    stop=("a", "b"),
    logprobs=2,
)
EVENTS = (Started(3, 0, (1, 2, 3)), Delta("é", (4,), (LOGPROB,)), Finished("stop", "a", 3, 4, 0.1, 0.2, 0.3))
FAILED = protocol.Failed("context", "m", "f", (1, 2))
MESSAGES = [
    protocol.Hello(1, VocabFacts(10, 1, 2, "<s>", "</s>", True, None, 4096, "m")),
    protocol.Load(make_record(), 4096),
    protocol.Progress(0.5),
    protocol.Ready(MemoryNumbers(1, 2, 3, 4, 5), 0.5, 2, True, 4096),
    protocol.Submit(7, REQUEST),
    protocol.Cancel(7),
    protocol.Hold(7),
    protocol.Release(7),
    protocol.Shutdown(),
    protocol.Tokens(
        tuple(protocol.SequenceEvent(1, event) for event in (*EVENTS, FAILED)),
        StepStats(1, 2, 3, 4, 5.0, 6, 7, 8, 9.0),
    ),
    protocol.Tokens((), None),
    protocol.Fatal("reason"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_survives(message: protocol.ToEngine | protocol.FromEngine) -> None:
    frame = encode(message)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert decode(frame[4:]) == message


@given(st.integers(1, 50))
def test_frames_are_cut_from_any_stream(size: int) -> None:
    stream = b"".join(map(encode, MESSAGES))
    reader = FrameReader()
    payloads = [payload for at in range(0, len(stream), size) for payload in reader.feed(stream[at : at + size])]
    assert [decode(payload) for payload in payloads] == MESSAGES


def tag_of(message: protocol.ToEngine | protocol.FromEngine) -> int:
    tag: int = msgpack.unpackb(encode(message)[4:])[0]
    return tag


CANCEL = tag_of(protocol.Cancel(1))


@pytest.mark.parametrize(
    "value",
    [
        None, 5, [], {}, [CANCEL], [CANCEL, "7"], [CANCEL, 7.0], [CANCEL, True], [CANCEL, 7, 8],
        [-1, 7], [999, 7], ["x"],
        [tag_of(MESSAGES[2]), "half"],
        [tag_of(MESSAGES[9]), [[tag_of(MESSAGES[5]), 7]], None],
        [tag_of(MESSAGES[9]), 5, None],
    ],
)  # fmt: skip
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(DecodeError):
        decode(msgpack.packb(value))


@given(st.binary(max_size=200))
def test_random_bytes_never_do_more_than_fail(data: bytes) -> None:
    try:
        decode(data)
    except DecodeError:
        return
    assert msgpack.unpackb(data)


def test_a_part_is_not_a_message() -> None:
    tag = tag_of(MESSAGES[9]) + 1  # SequenceEvent follows Tokens
    with pytest.raises(DecodeError, match="of its own"):
        decode(msgpack.packb([tag, 1, [tag + 1, 1, 0, []]]))


def test_sizes_are_bounded() -> None:
    with pytest.raises(ValueError, match="exceeds the limit"):
        encode(protocol.Fatal("x" * protocol.MAX_FRAME))
    with pytest.raises(DecodeError, match="exceeds the limit"):
        FrameReader().feed((protocol.MAX_FRAME + 1).to_bytes(4, "big"))


def test_lone_surrogates_do_not_travel() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode(protocol.Submit(1, GenerationRequest("r", (Segment("\ud800"),))))


@pytest.mark.parametrize(
    "error",
    [
        ContextExceededError(10, 5),
        InvalidRequestError("top_p", "must be between 0 and 1"),
        QueueFullError(3, 2.0),
        EngineFailedError("broken"),
    ],
)
def test_errors_survive(error: GenerationError) -> None:
    again = from_wire(to_wire(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
