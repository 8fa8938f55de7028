"""The replies of OpenAI's completions, built from a generation's events. Called by `api.openai`.

A stream is a series of `data:` events that ends with `[DONE]`; an error in the middle is one event without `[DONE]`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from paddock_runner.api.ollama_answer import LEAST_LOGPROB, encoded, logprob_entries
from paddock_runner.api.streaming import Chunks
from paddock_runner.core.generation import Delta, Event, Finished, Started, TokenLogprob

Kind = Literal["chat", "text"]
Events = AsyncGenerator[Event, None]
DONE = b"data: [DONE]\n\n"
FINGERPRINT = "fp_paddock"


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + encoded(value) + b"\n\n"


class Answer:
    """What one reply remembers between events. `identity` makes the reply's id."""

    def __init__(self, model: str, kind: Kind, identity: str, *, with_usage: bool) -> None:
        self.with_usage = with_usage
        self._kind = kind
        self._cached = 0
        self._offset = 0
        self._head = {
            "id": f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{identity}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }

    def started(self, started: Started) -> None:
        self._cached = started.cached_tokens

    def opening(self) -> list[dict[str, Any]]:
        """The chunk with the role, which only chats have."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}})] if self._kind == "chat" else []

    def piece(self, delta: Delta) -> dict[str, Any]:
        """A chunk with text."""
        said: dict[str, Any] = {"delta": {"content": delta.text}} if self._kind == "chat" else {"text": delta.text}
        return self._chunk({**said, **self._logprobs(delta.logprobs)})

    def ending(self, finished: Finished) -> Iterator[dict[str, Any]]:
        """The chunk with the finish reason, and one with the usage if the client asked for it."""
        said: dict[str, Any] = {"delta": {}} if self._kind == "chat" else {"text": ""}
        yield self._chunk(said, _reason(finished))
        if self.with_usage:
            yield {**self._head, "object": self._object(chunk=True), "choices": [], "usage": self._usage(finished)}

    def whole(self, text: str, logprobs: Sequence[TokenLogprob], finished: Finished) -> dict[str, Any]:
        """The reply without streaming."""
        message = {"message": {"role": "assistant", "content": text}} if self._kind == "chat" else {"text": text}
        choice = {"index": 0, **message, **self._logprobs(logprobs), "finish_reason": _reason(finished)}
        return {
            **self._head,
            "object": self._object(chunk=False),
            "choices": [{"logprobs": None, **choice}],
            "usage": self._usage(finished),
        }

    def _chunk(self, said: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "logprobs": None, **said, "finish_reason": reason}
        # With include_usage every other chunk carries a null usage, as OpenAI documents it.
        usage = {"usage": None} if self.with_usage else {}
        return {**self._head, "object": self._object(chunk=True), "choices": [choice], **usage}

    def _object(self, *, chunk: bool) -> str:
        if self._kind == "text":
            return "text_completion"
        return "chat.completion.chunk" if chunk else "chat.completion"

    def _usage(self, finished: Finished) -> dict[str, Any]:
        return {
            "prompt_tokens": finished.prompt_tokens,
            "completion_tokens": finished.output_tokens,
            "total_tokens": finished.prompt_tokens + finished.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        if not logprobs:
            return {}
        if self._kind == "text":
            return {"logprobs": self._columns(logprobs)}
        content = [{"top_logprobs": [], **entry} for entry in logprob_entries(logprobs)]
        return {"logprobs": {"content": content, "refusal": None}}

    def _columns(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        tokens = [item.piece.decode(errors="replace") for item in logprobs]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [max(LEAST_LOGPROB, item.logprob) for item in logprobs],
            "top_logprobs": [_alternatives(item) for item in logprobs],
            "text_offset": offsets,
        }


def _alternatives(item: TokenLogprob) -> dict[str, float]:
    return {piece.decode(errors="replace"): max(LEAST_LOGPROB, logprob) for _, piece, logprob in item.top}


def _reason(finished: Finished) -> str:
    return "length" if finished.reason == "length" else "stop"


async def stream(answer: Answer, events: Events) -> Chunks:
    """Server-sent events."""
    opened = False
    async with aclosing(events):
        async for item in events:
            if isinstance(item, Started):
                answer.started(item)
                continue
            for chunk in _stream_chunks(answer, item, opened):
                yield event(chunk)
            opened = True
    yield DONE


def _stream_chunks(answer: Answer, item: Delta | Finished, opened: bool) -> Iterator[dict[str, Any]]:
    if not opened:
        yield from answer.opening()
    if isinstance(item, Finished):
        yield from answer.ending(item)
    elif item.text or item.logprobs:
        yield answer.piece(item)


async def one_reply(answer: Answer, events: Events) -> Chunks:
    """One object."""
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    async with aclosing(events):
        async for item in events:
            if isinstance(item, Started):
                answer.started(item)
            elif isinstance(item, Finished):
                yield encoded(answer.whole("".join(texts), logprobs, item))
            else:
                texts.append(item.text)
                logprobs += item.logprobs
