"""One streamed completion and when its tokens came. Used by `benchmarks.engine.loads`; all peers speak this dialect."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

_COMMON = (
    "time person year way day thing man world life hand part child eye woman place work week case point government "
    "company number group problem fact water room mother area money story month lot right study book word business "
    "issue side kind head house service friend father power hour game line end member law car city name president team"
)
WORDS = _COMMON.split()
TIMEOUT = httpx.Timeout(600)


@dataclass
class Trace:
    """A completion: `start` and the moments at which text came, on `time.perf_counter`; tokens as the server counts."""

    start: float
    times: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    text: str = ""

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.start

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]

    def read(self, document: dict[str, Any]) -> None:
        """Take one event."""
        for choice in document.get("choices", ()):
            if choice.get("text"):
                self.times.append(time.perf_counter())
                self.text += choice["text"]
        if usage := document.get("usage"):
            self.prompt_tokens, self.tokens = usage["prompt_tokens"], usage["completion_tokens"]
            self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        if timings := document.get("timings"):
            self.cached_tokens = timings.get("cache_n", self.cached_tokens)


def words(luck: random.Random, count: int) -> str:
    """A text of about `count` tokens that no other request begins with."""
    return " ".join(luck.choice(WORDS) for _ in range(count))


async def complete(client: httpx.AsyncClient, url: str, prompt: str, tokens: int, seed: int = 1) -> Trace:
    """Ask for `tokens` tokens. Raises httpx.HTTPStatusError, and SystemExit if nothing came."""
    body = {
        "model": "smollm2", "prompt": prompt, "max_tokens": tokens, "temperature": 0.8, "seed": seed, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    trace = Trace(time.perf_counter())
    async with client.stream("POST", f"{url}/v1/completions", json=body, timeout=TIMEOUT) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                trace.read(json.loads(line[6:]))
    if not trace.times:
        raise SystemExit(f"{url} answered with no text")
    return trace
