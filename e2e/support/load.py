"""A steady load of streaming chats, and what became of each request.

Used by the scenarios that change or break something while people chat. A request counts as failed when it gets
no 200, or its stream ends without the final event; refusals with 429 or 503 count too: nobody may notice anything.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

TIMEOUT_SECONDS = 90.0


@dataclass(frozen=True)
class Answer:
    """One request: `error` is empty if it was served to the end; times are seconds on the monotonic clock."""

    started: float
    seconds: float
    status: int
    text: str
    error: str


def chat(url: str, key: str, model: str, prompt: str = "Say hello.", tokens: int = 12) -> Answer:
    """Stream one chat by the OpenAI dialect over a connection of its own."""
    started = time.monotonic()
    status, text, error = 0, "", ""
    try:
        status, text = _stream(url, key, model, prompt, tokens)
    except (OSError, http.client.HTTPException, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Answer(started, time.monotonic() - started, status, text, error)


def _stream(url: str, key: str, model: str, prompt: str, tokens: int) -> tuple[int, str]:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_SECONDS)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "max_tokens": tokens,
        "temperature": 0,
    }
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}: {response.read(2000)!r}")
        return response.status, _text(response)
    finally:
        connection.close()


def _text(response: http.client.HTTPResponse) -> str:
    text, done = "", False
    for line in response:
        data = line.decode().strip().removeprefix("data:").strip()
        if data == "[DONE]":
            done = True
        elif data:
            text += _delta(json.loads(data))
    if not done:
        raise ValueError(f"the stream ended early after {text!r}")
    return text


def _delta(event: dict[str, Any]) -> str:
    if "error" in event:
        raise ValueError(f"error in the stream: {event['error']}")
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


@dataclass
class Load:
    """`clients` threads that chat without pause from entry to exit of the context."""

    url: str
    key: str
    model: str
    clients: int = 4
    pause: float = 0.2
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS + 10)

    def _run(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            self.answers.append(chat(self.url, self.key, self.model, f"Count to {turn % 7 + 3}, client {number}."))
            self._stop.wait(self.pause)

    @property
    def failures(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.error]

    def served(self, since: float = 0.0) -> int:
        """Requests that started after `since` and were served to the end."""
        return sum(1 for answer in self.answers if not answer.error and answer.started >= since)

    def assert_clean(self, least: int) -> None:
        """No request failed, and at least so many were served (a load that did nothing proves nothing)."""
        assert not self.failures, f"{len(self.failures)} of {len(self.answers)} failed, first: {self.failures[:3]}"
        assert self.served() >= least, f"only {self.served()} requests were served"
