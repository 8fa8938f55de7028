"""The replies of `/api/generate` and `/api/chat`, built from a generation's events. Called by `api.ollama`.

A stream is one JSON object per line; otherwise it is one object with the whole text and the last line's numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Literal

from paddock_runner.api.streaming import Chunks
from paddock_runner.core.chat import ToolCall
from paddock_runner.core.durations import nanoseconds
from paddock_runner.core.generation import Delta, Event, Finished, Started, TokenLogprob
from paddock_runner.core.parsers.tagged import TaggedCalls

Kind = Literal["generate", "chat"]
Events = AsyncGenerator[Event, None]
LEAST_LOGPROB = -9999.0


def stamp(nanos: int | None = None) -> str:
    """RFC 3339 in UTC with nanoseconds; now unless `nanos` since the epoch are given."""
    moment = time.time_ns() if nanos is None else nanos
    whole, fraction = divmod(moment, 1_000_000_000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def logprob_entries(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """The entries that both dialects use; the list of alternatives only when there are any."""
    return [_entry(item) for item in logprobs]


def _entry(item: TokenLogprob) -> dict[str, Any]:
    entry = _one(item.piece, item.logprob)
    if item.top:
        entry["top_logprobs"] = [_one(piece, logprob) for _, piece, logprob in item.top]
    return entry


def _one(piece: bytes, logprob: float) -> dict[str, Any]:
    finite = max(LEAST_LOGPROB, logprob)  # JSON has no infinity
    return {"token": piece.decode(errors="replace"), "logprob": finite, "bytes": list(piece)}


class Answer:
    """What one reply remembers between events. `arrived` and `now` are the runner's clock in seconds.

    `calls` reads tool calls out of the text; None leaves the text as it is.
    """

    def __init__(
        self,
        model: str,
        kind: Kind,
        arrived: float,
        now: Callable[[], float],
        *,
        with_context: bool,
        calls: TaggedCalls | None = None,
    ) -> None:
        self._calls = calls
        self._told = 0
        self._model = model
        self._kind = kind
        self._arrived = arrived
        self._now = now
        self._with_context = with_context
        self._tokens: list[int] = []

    def started(self, event: Started) -> None:
        if self._with_context:
            self._tokens.extend(event.tokens)

    def add(self, event: Delta) -> None:
        if self._with_context:
            self._tokens.extend(event.tokens)

    def read(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """The part of `text` to show, and the tool calls that it completes."""
        if self._calls is None:
            return text, []
        shown, calls = self._calls.feed(text)
        return shown, self._shown_calls(calls)

    def rest(self) -> tuple[str, list[dict[str, Any]]]:
        """What was held back, at the end."""
        if self._calls is None:
            return "", []
        shown, calls = self._calls.finish()
        return shown, self._shown_calls(calls)

    def _shown_calls(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        first, self._told = self._told, self._told + len(calls)
        return [
            {"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.arguments}}
            for index, call in enumerate(calls, first)
        ]

    def called(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """An object with tool calls that is not the last one."""
        piece = self.piece("", [])
        piece["message"]["tool_calls"] = calls
        return piece

    def piece(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        """An object that is not the last one."""
        return {**self._head(text), "done": False, **({"logprobs": logprobs} if logprobs else {})}

    def last(self, event: Finished, text: str = "", logprobs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The object with the numbers; zero values are left out."""
        numbers = {
            "total_duration": nanoseconds(self._now() - self._arrived),
            "load_duration": max(1, nanoseconds(event.queue_seconds)),
            "prompt_eval_count": event.prompt_tokens,
            "prompt_eval_duration": nanoseconds(event.prefill_seconds),
            "eval_count": event.output_tokens,
            "eval_duration": nanoseconds(event.decode_seconds),
        }
        reason = "stop" if event.reason == "cancelled" else event.reason
        context = {"context": self._tokens} if self._with_context else {}
        kept = {name: number for name, number in numbers.items() if number}
        extra = {"logprobs": logprobs} if logprobs else {}
        return {**self._head(text), "done": True, "done_reason": reason, **context, **kept, **extra}

    def _head(self, text: str) -> dict[str, Any]:
        said = {"response": text} if self._kind == "generate" else {"message": {"role": "assistant", "content": text}}
        return {"model": self._model, "created_at": stamp(), **said}


async def stream(answer: Answer, events: Events) -> Chunks:
    """NDJSON lines."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Started):
                answer.started(event)
            elif isinstance(event, Finished):
                for line in _lines(answer, *answer.rest(), []):
                    yield line
                yield encoded(answer.last(event)) + b"\n"
            else:
                answer.add(event)
                for line in _lines(answer, *answer.read(event.text), logprob_entries(event.logprobs)):
                    yield line


def _lines(answer: Answer, text: str, calls: list[dict[str, Any]], logprobs: list[dict[str, Any]]) -> Iterator[bytes]:
    if text or logprobs:
        yield encoded(answer.piece(text, logprobs)) + b"\n"
    if calls:
        yield encoded(answer.called(calls)) + b"\n"


async def one_reply(answer: Answer, events: Events) -> Chunks:
    """One object."""
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    logprobs: list[dict[str, Any]] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Started):
                answer.started(event)
            elif isinstance(event, Finished):
                text, found = answer.rest()
                reply = answer.last(event, "".join([*texts, text]), logprobs)
                if calls + found:
                    reply["message"]["tool_calls"] = calls + found
                yield encoded(reply)
            else:
                answer.add(event)
                text, found = answer.read(event.text)
                texts.append(text)
                calls += found
                logprobs += logprob_entries(event.logprobs)


def encoded(value: dict[str, Any]) -> bytes:
    """Compact UTF-8 JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
