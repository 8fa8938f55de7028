"""What a JSON schema costs one stream: tokens per second with it over tokens per second without, for each server."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import httpx
from benchmarks.common import Context, Row
from benchmarks.engine.servers import DEFAULT, OURS, Shape, all_of

TOKENS = 160
SCHEMA = {
    "type": "object",
    "properties": {"story": {"type": "string", "minLength": 2000}, "pages": {"type": "integer"}},
    "required": ["story", "pages"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "story", "schema": SCHEMA}}


def rate(url: str, more: dict[str, Any]) -> float:
    """Tokens per second between the first and the last one."""
    asked = [{"role": "user", "content": "Tell me a long story about a llama and a horse."}]
    body = {"model": "smollm2", "messages": asked, "max_tokens": TOKENS, "temperature": 0.8, "seed": 1, "stream": True}
    times = []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, **more}, timeout=300) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            choices = json.loads(line[6:])["choices"] if line.startswith("data: {") else []
            if choices and choices[0]["delta"].get("content"):
                times.append(time.perf_counter())
    return (len(times) - 1) / (times[-1] - times[0])


def structure(context: Context, best: tuple[str, ...]) -> list[Row]:
    """Interleaved: each server free and bound."""
    ratios = dict[str, list[float]]()
    with all_of(context, Shape(4, 1024), (OURS, DEFAULT), best) as urls:
        for number in range(context.rounds + 1):
            for name, url in urls.items():
                free, bound = rate(url, {}), rate(url, {"response_format": FORMAT})
                if number:
                    ratios.setdefault(name, []).append(bound / free)
    ours, theirs = statistics.median(ratios[OURS]), statistics.median(ratios[DEFAULT])
    shown = f"{DEFAULT} {theirs:.2f}"
    return [Row("tokens/s under a JSON schema over free ones", f"{ours:.2f}", shown, ours, 0.95, "×", True)]
