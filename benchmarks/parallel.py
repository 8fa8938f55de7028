"""Eight parallel streams on the runner against llama-server of the same build, both with eight slots.

Every prompt is new: llama-server keeps the prompts of its slots, and the runner has no prefix reuse yet, so a repeated
prompt would measure that instead of batching.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import Iterator

import httpx

from benchmarks.common import Child, Context, Row, median, wait_http

STREAMS, TOKENS = 8, 96
TOPICS = ("a llama", "a horse", "rain", "the sea", "a baker", "two ships", "a library", "winter")


CHAPTERS = itertools.count(1)


def body(topic: str) -> dict[str, object]:
    prompt = f"{next(CHAPTERS)}. " + f"Once upon a time there was a story about {topic}. " * 6
    return {"model": "smollm2", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.8, "seed": 7}


async def one(client: httpx.AsyncClient, base: str, topic: str) -> int:
    response = await client.post(base + "/v1/completions", json=body(topic), timeout=300)
    response.raise_for_status()
    return int(response.json()["usage"]["completion_tokens"])


async def burst(base: str) -> float:
    """Generated tokens per second of wall time over all streams, prefill included."""
    async with httpx.AsyncClient() as client:
        start = time.perf_counter()
        tokens = sum(await asyncio.gather(*(one(client, base, topic) for topic in TOPICS)))
        return tokens / (time.perf_counter() - start)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def llama_server(context: Context) -> Iterator[str]:
    port = free_port()
    command = [str(context.llama / "llama-server"), "-m", str(context.gguf), "--port", str(port), "-np", str(STREAMS)]
    child = Child([*command, "-c", str(1024 * STREAMS), "--no-webui", "--host", "127.0.0.1"], events=False)
    try:
        wait_http(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        child.stop()


def measure(context: Context) -> list[Row]:
    ours, theirs = [], []
    with context.serving(slots=STREAMS, context=1024) as base, llama_server(context) as other:
        for url in (base, other):
            asyncio.run(burst(url))
        for _ in range(context.rounds):
            theirs.append(asyncio.run(burst(other)))
            ours.append(asyncio.run(burst(base)))
    a, b = median(ours), median(theirs)
    return [Row("8 parallel streams", f"{a:.1f} tokens/s", f"llama-server {b:.1f} tokens/s", a / b, 0.7, "×", True)]
