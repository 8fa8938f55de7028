"""The words between the HTTP front and the engine child: frames of msgpack with a 4-byte big-endian length before each.

Front to engine: Load, Submit, Embed, Cancel, Hold, Release, Shutdown. Engine to front: Hello, Progress, Ready, Tokens
(one per step, with the events of all sequences and the step's numbers), Fatal. `handle` is the front's number for one
request, unique within a connection. Used by `engine.loop` and `engine.child` on one side, `engine.client` on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paddock_runner.core.embedding import Embedded, EmbedDone, EmbedRequest
from paddock_runner.core.engine_facts import MemoryNumbers, StepStats, VocabFacts
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import (
    Constraint,
    Delta,
    Finished,
    GenerationRequest,
    Sampling,
    Segment,
    Started,
    TokenLogprob,
)
from paddock_runner.engine.codec import Codec, DecodeError

PROTOCOL_VERSION = 1
MAX_FRAME = 16 * 1024 * 1024
_LENGTH_BYTES = 4

FailureKind = Literal["context", "invalid", "queue", "failed"]


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of the engine: the vocabulary is loaded, the weights are not."""

    version: int
    vocab: VocabFacts


@dataclass(frozen=True, slots=True)
class Load:
    """Load the weights with these numbers. `queue_depth` bounds the sequences that wait inside the engine."""

    record: EngineRecord
    queue_depth: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the weights is loaded, 0 to 1."""

    fraction: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The weights are loaded and the self-test gave finite logits. `cells` is what llama.cpp made of the record's."""

    memory: MemoryNumbers
    load_seconds: float
    threads: int
    flash_attention: bool
    cells: int


@dataclass(frozen=True, slots=True)
class Submit:
    handle: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Embed:
    """The Submit of Models of mode Embed and Rerank."""

    handle: int
    request: EmbedRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    handle: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Do not decode this sequence until Release: its reader is slow."""

    handle: int


@dataclass(frozen=True, slots=True)
class Release:
    handle: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the process with exit code 0 after the step in progress."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The sequence ends with an error; `numbers` are the arguments of that error (see `engine.failures`)."""

    kind: FailureKind
    message: str
    field: str = ""
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceEvent:
    handle: int
    event: Started | Delta | Finished | Embedded | EmbedDone | Failed


@dataclass(frozen=True, slots=True)
class Tokens:
    """All that one step gave. `stats` is None when the events come from outside a step."""

    events: tuple[SequenceEvent, ...]
    stats: StepStats | None


@dataclass(frozen=True, slots=True)
class Fatal:
    """The engine cannot go on and exits non-zero after this frame."""

    message: str


ToEngine = Load | Submit | Embed | Cancel | Hold | Release | Shutdown
FromEngine = Hello | Progress | Ready | Tokens | Fatal

_CODEC = Codec(
    [
        Hello, VocabFacts, Load, EngineRecord, Progress, Ready, MemoryNumbers, Submit, GenerationRequest, Segment,
        Constraint, Sampling, Cancel, Hold, Release, Shutdown, Tokens, SequenceEvent, Started, Delta, TokenLogprob,
        Finished, Failed, StepStats, Fatal, Embed, EmbedRequest, Embedded, EmbedDone,
    ]
)  # fmt: skip


def encode(message: ToEngine | FromEngine) -> bytes:
    """One frame with its length. Raises ValueError beyond MAX_FRAME, UnicodeEncodeError for lone surrogates in text."""
    payload = _CODEC.pack(message)
    if len(payload) > MAX_FRAME:
        raise ValueError(f"a frame of {len(payload)} bytes exceeds the limit of {MAX_FRAME} bytes")
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


def decode(payload: bytes) -> ToEngine | FromEngine:
    """The message in one frame's payload. Raises DecodeError."""
    message = _CODEC.unpack(payload)
    if not isinstance(message, ToEngine | FromEngine):
        raise DecodeError(f"{type(message).__name__} is not a message of its own")
    return message


class FrameReader:
    """Cuts a byte stream into payloads. `feed` raises DecodeError as soon as a length exceeds MAX_FRAME."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; returns the payloads that are complete now."""
        self._buffer += data
        payloads = []
        while (payload := self._cut()) is not None:
            payloads.append(payload)
        return payloads

    def _cut(self) -> bytes | None:
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if length > MAX_FRAME:
            raise DecodeError(f"a frame of {length} bytes exceeds the limit of {MAX_FRAME} bytes")
        end = _LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_LENGTH_BYTES:end])
        del self._buffer[:end]
        return payload
