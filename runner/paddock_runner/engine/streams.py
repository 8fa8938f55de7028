"""The front's side of one sequence: events queue here until the reader takes them. Called by `engine.client` only.

The front always drains the socket. A reader that does not keep up makes its own sequence held in the engine, beyond
HOLD_BYTES of events, until it has caught up to RELEASE_BYTES; nobody else waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

from paddock_runner.core.embedding import EmbedDone, EmbedEvent
from paddock_runner.core.generation import Delta, Event, Finished, GenerationError, TokenLogprob

HOLD_BYTES = 1024 * 1024
RELEASE_BYTES = HOLD_BYTES // 4
_EVENT_BYTES = 64

Flow = Literal["hold", "release"]
AnyEvent = Event | EmbedEvent


class Stream:
    """Queue of one request's events with its size in bytes. `handle` and `request_id` are the client's."""

    def __init__(self, handle: int, request_id: str) -> None:
        self.handle = handle
        self.request_id = request_id
        self.submitted = False
        self.held = False
        self.ended = False
        self._events: deque[AnyEvent] = deque()
        self._error: GenerationError | None = None
        self._bytes = 0
        self._filled = asyncio.Event()

    def put(self, event: AnyEvent) -> Flow | None:
        """Add an event. Returns "hold" when the sequence must pause now."""
        self._events.append(event)
        self._bytes += event_bytes(event)
        self._filled.set()
        self.ended = self.ended or isinstance(event, Finished | EmbedDone)
        if self.held or self._bytes <= HOLD_BYTES:
            return None
        self.held = True
        return "hold"

    def fail(self, error: GenerationError) -> None:
        """End the stream with `error` after the events that are queued."""
        self.ended = True
        self._error = self._error or error
        self._filled.set()

    async def take(self) -> tuple[AnyEvent, Flow | None]:
        """The next event, and "release" when the sequence may go on now. Raises the GenerationError given to `fail`."""
        while not self._events:
            if self._error is not None:
                raise self._error
            self._filled.clear()
            await self._filled.wait()
        event = self._events.popleft()
        self._bytes -= event_bytes(event)
        if not self.held or self._bytes > RELEASE_BYTES:
            return event, None
        self.held = False
        return event, "release"


def event_bytes(event: AnyEvent) -> int:
    """Roughly what an event occupies; only its growth with text, tokens and alternatives matters."""
    if not isinstance(event, Delta):
        return _EVENT_BYTES
    logprobs = sum(map(_logprob_bytes, event.logprobs))
    return _EVENT_BYTES + len(event.text.encode()) + 8 * len(event.tokens) + logprobs


def _logprob_bytes(logprob: TokenLogprob) -> int:
    return 32 + len(logprob.piece) + sum(32 + len(piece) for _, piece, _ in logprob.top)
