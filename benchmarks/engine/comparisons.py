"""One function for each load: ask all servers in turn, make the rows of the report. Used by `benchmarks.engine.run`."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import httpx
from benchmarks.common import Context, Row
from benchmarks.engine.client import complete, words
from benchmarks.engine.costs import memory, python
from benchmarks.engine.loads import Gaps, Rate, closed_loop, shared_prompt, streams_and_long, talks
from benchmarks.engine.servers import BEST, DEFAULT, OLLAMA, OURS, TUNED, Shape, all_of
from benchmarks.engine.single import single
from benchmarks.engine.structure import structure

T = TypeVar("T")
Asked = Callable[[str, int], Coroutine[Any, Any, T]]
"""Puts a load on the server at a URL; the number of the round makes its prompts new."""

BATCHES = (32, 64, 128, 256, 512)
SECONDS = 20.0
PAUSE = 15.0


def flags(batch: int) -> tuple[str, ...]:
    """llama-server's flags for steps of `batch` tokens."""
    return ("-b", str(batch), "-ub", str(batch))


def best_batch(context: Context) -> int:
    """Where llama-server's longest gap beside a long prompt is shortest."""
    longest = dict[int, float]()
    for batch in BATCHES:
        with all_of(context, Shape(16, 1536), (BEST,), flags(batch)) as urls:
            found = in_turn(urls, 1, lambda url, seed: streams_and_long(url, 4, 1, PAUSE, seed))
        longest[batch] = found[BEST][0].longest
    return min(longest, key=longest.__getitem__)


def in_turn(urls: dict[str, str], rounds: int, ask: Asked[T]) -> dict[str, list[T]]:
    """The answers of every server, by name, after a warm-up."""
    found = {name: list[T]() for name in urls}
    for url in urls.values():
        asyncio.run(_warm(url))
    for number in range(rounds):
        for name, url in urls.items():
            found[name].append(asyncio.run(ask(url, number + 1)))
    return found


async def _warm(url: str) -> None:
    async with httpx.AsyncClient() as client:
        await complete(client, url, words(random.Random(0), 20), 8)


def medians(found: dict[str, list[T]], of: Callable[[T], float]) -> dict[str, float]:
    return {name: statistics.median(of(item) for item in items) for name, items in found.items()}


def rows(what: str, unit: str, found: dict[str, float], targets: dict[str, float], higher: bool) -> list[Row]:
    """Our figure over every peer's."""
    ours = found[OURS]
    return [
        Row(what, f"{ours:.4g} {unit}", f"{name} {found[name]:.4g} {unit}", ours / found[name], target, "×", higher)
        for name, target in targets.items()
    ]


def throughput(context: Context, best: tuple[str, ...]) -> list[Row]:
    """Closed loops of 8, 16 and 32 clients."""
    table, targets = list[Row](), {DEFAULT: 1.05, BEST: 1.05, TUNED: 1.1, OLLAMA: 1.5}
    for clients in (8, 16, 32):
        with all_of(context, Shape(min(clients, 16), 1280), (OURS, *targets), best) as urls:
            ask: Asked[Rate] = lambda url, seed, many=clients: closed_loop(url, many, SECONDS, seed)  # type: ignore[misc] # noqa: E731
            found = in_turn(urls, context.rounds, ask)
        for kind, of in (("all", lambda rate: rate.total), ("generated", lambda rate: rate.generated)):
            table += rows(f"{clients} clients, {kind} tokens", "tokens/s", medians(found, of), targets, higher=True)
    return table


def stalls(context: Context, best: tuple[str, ...]) -> list[Row]:
    """Four streams beside long prompts."""
    with all_of(context, Shape(16, 1536), (OURS, DEFAULT, BEST), best) as urls:
        found = in_turn(urls, context.rounds, lambda url, seed: streams_and_long(url, 4, 3, PAUSE, seed))

    def of(name: str) -> dict[str, float]:
        return medians(found, lambda gaps: float(getattr(gaps, name)))

    first, rate, median = of("first"), of("rate"), of("median")
    peers = {DEFAULT: 1.0, BEST: 1.0}
    return [
        *rows(
            "4 streams beside long prompts, longest gap", "s", of("longest"), {DEFAULT: 0.05, BEST: 0.5}, higher=False
        ),
        *rows("the same, 99.9 % of the gaps", "s", of("p999"), peers, higher=False),
        *rows("the same, long prompts' first token", "s", first, peers, higher=False),
        *rows("the same, all tokens", "tokens/s", rate, peers, higher=True),
        _own(found[OURS], median[OURS]),
    ]


def _own(ours: list[Gaps], median: float) -> Row:
    longest = statistics.median(gaps.longest for gaps in ours)
    shown = f"median {median * 1000:.0f} ms"
    return Row("the same, longest gap", f"{longest * 1000:.0f} ms", shown, longest / median, 5, "×", False)


def sharing(context: Context, best: tuple[str, ...]) -> list[Row]:
    """16 users of one system prompt."""
    peers = {DEFAULT: 0.1, BEST: 0.1, TUNED: 0.1}
    with all_of(context, Shape(16, 1536), (OURS, *peers), best) as urls:
        found = in_turn(urls, context.rounds, lambda url, seed: shared_prompt(url, 16, seed))
    what = "16 users of one system prompt, first token"
    return rows(what, "s", medians(found, float), peers, higher=False)


def turns(context: Context, best: tuple[str, ...]) -> list[Row]:
    """More conversations than slots."""
    with all_of(context, Shape(4, 1024), (OURS, BEST), best) as urls:
        found = in_turn(urls, context.rounds, lambda url, seed: talks(url, 8, 6, seed))
    what = "8 talks of 6 turns, 4 slots, tokens computed of prompts"
    return rows(what, "tokens", medians(found, float), {BEST: 0.6}, higher=False)


COMPARISONS = {
    "single": single, "throughput": throughput, "stalls": stalls, "sharing": sharing, "turns": turns, "python": python,
    "structure": structure, "memory": memory,
}  # fmt: skip
