"""What the servers are asked under load. Called by `benchmarks.engine.run`; every function takes one server's URL."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass

import httpx
from benchmarks.engine.client import Trace, complete, words

LONG = 1100
SYSTEM = 1200


@dataclass(frozen=True)
class Rate:
    """Tokens per second of wall time: all, and the generated ones."""

    total: float
    generated: float


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=None))


async def closed_loop(url: str, clients: int, seconds: float, seed: int) -> Rate:
    """`clients` ask again as soon as they are answered: prompts of 32 to 1,024 tokens, answers of 16 to 96."""
    end = time.perf_counter() + seconds
    done: list[Trace] = []

    async def one(client: httpx.AsyncClient, number: int) -> None:
        luck = random.Random(f"{seed}-{number}")
        while time.perf_counter() < end:
            prompt = words(luck, round(2 ** luck.uniform(5, 10)))
            done.append(await complete(client, url, prompt, luck.randint(16, 96), number))

    began = time.perf_counter()
    async with _client() as client:
        await asyncio.gather(*(one(client, number) for number in range(clients)))
    took = time.perf_counter() - began
    generated = sum(trace.tokens for trace in done)
    return Rate((generated + sum(trace.prompt_tokens for trace in done)) / took, generated / took)


@dataclass(frozen=True)
class Gaps:
    """Seconds: between the streams' tokens (median, 99.9 %, longest), and to the long prompts' first token."""

    median: float
    p999: float
    longest: float
    first: float
    rate: float
    """Tokens per second of all, prompts included."""


async def streams_and_long(url: str, streams: int, longs: int, pause: float, seed: int) -> Gaps:
    """`streams` short prompts that generate all the time, and every `pause` seconds a prompt of 1.1k tokens."""
    luck, ended = random.Random(seed), asyncio.Event()
    short: list[Trace] = []

    async def stream(client: httpx.AsyncClient, number: int) -> None:
        while not ended.is_set():
            short.append(await complete(client, url, words(luck, 24), 400, number))

    async with _client() as client:
        began = time.perf_counter()
        running = [asyncio.create_task(stream(client, number)) for number in range(streams)]
        asked = list[asyncio.Task[Trace]]()
        for number in range(longs):
            await asyncio.sleep(pause if number else pause / 3)
            asked.append(asyncio.create_task(complete(client, url, words(luck, LONG), 16, number)))
        long = await asyncio.gather(*asked)
        ended.set()
        await asyncio.gather(*running)
        took = time.perf_counter() - began
    gaps = sorted(gap for trace in short for gap in trace.gaps)
    tokens = sum(trace.tokens + trace.prompt_tokens for trace in [*short, *long])
    return Gaps(
        statistics.median(gaps),
        gaps[min(len(gaps) - 1, round(len(gaps) * 0.999))],
        gaps[-1],
        statistics.median(trace.first for trace in long),
        tokens / took,
    )


async def shared_prompt(url: str, users: int, seed: int) -> float:
    """Median seconds to the first token of `users` at once whose prompts begin alike, after one that came before."""
    luck = random.Random(seed)
    system = words(luck, SYSTEM)
    async with _client() as client:
        await complete(client, url, f"{system} {words(luck, 12)}", 4)
        asked = (complete(client, url, f"{system} {words(luck, 12)}", 32, number) for number in range(users))
        traces = await asyncio.gather(*asked)
    return statistics.median(trace.first for trace in traces)


async def talks(url: str, users: int, turns: int, seed: int) -> int:
    """Tokens of prompts that were computed, not found, in `users` conversations of `turns` turns, taken in turn."""
    luck = random.Random(seed)
    histories = [words(luck, 150) for _ in range(users)]
    computed = 0
    async with _client() as client:
        for _ in range(turns):
            for number, history in enumerate(histories):
                prompt = f"{history} {words(luck, 20)}"
                trace = await complete(client, url, prompt, 24, number)
                computed += trace.prompt_tokens - trace.cached_tokens
                histories[number] = prompt + trace.text
    return computed
