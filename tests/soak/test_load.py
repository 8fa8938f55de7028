"""Random load on a real runner with real weights, while its engine and the whole of it are killed.

SOAK_SECONDS (6) says how long; `make soak` takes half an hour. Nothing may be wrong in it, and afterwards nothing is
left: no request, no cell that somebody uses, no memory that only grows.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.crowd import PROMPTS, Crowd, body
from tests.support.serving import Serving, smollm2_cache
from tests.support.waiting import until_sync

pytestmark = [pytest.mark.model, pytest.mark.e2e]

SECONDS = float(os.environ.get("SOAK_SECONDS", "6"))
PEOPLE = 8
# Fewer cells than four sequences may want, so that some are preempted and prefixes have to leave.
SIZES = {"contextLength": 768, "slots": 4, "cells": 1600, "sequences": 12, "prefixBytes": 32 << 20, "threads": 1}
GROWTH = 64 << 20
CELLS, STATES = "paddock_runner_kv_cache_tokens", ("used", "shared", "retained", "free", "capacity")
SETTLE_SECONDS = 20.0


def resident(pid: int) -> int:
    """Bytes of a process in memory that are not of a file."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@dataclass
class World:
    """The runner that there is now, and what was seen of the memory of each process."""

    folder: Path
    cache: tuple[Path, str]
    at: Serving = field(init=False)
    seen: dict[int, list[int]] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        base = {"mode": "generate", "batch": 256, "typeK": "f16", "typeV": "f16", "flashAttention": "auto"}
        engine = {**base, "mmap": True, "mlock": False, "gpuLayers": 0, **SIZES}
        self.at = Serving(self.folder, self.cache, engine=engine, queueDepth=8)
        until_sync(lambda: self.at.ready()["ready"], 60)

    def look(self) -> None:
        """Note the memory of the front and of the engine, once they have been up for a while."""
        now = time.monotonic()
        for pid in (self.at.process.pid, self.at.engine_pid()):
            if now - self.started.setdefault(pid, now) > SETTLE_SECONDS:
                self.seen.setdefault(pid, []).append(resident(pid))


@pytest.fixture
def world(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path, smollm2_cache(tmp_path_factory.mktemp("soak")))
    try:
        yield world
    finally:
        world.at.stop()


def alone(at: Serving) -> dict[str, str]:
    return {
        prompt: at.client.post("/api/generate", json=body(prompt, stream=False)).json()["response"]
        for prompt in PROMPTS
    }


async def disturb(world: World, crowd: Crowd) -> None:
    """Kill the engine twice, then the whole runner, and leave the last half of the time in peace."""
    for kill in ("engine", "engine", "runner"):
        await peace(crowd, SECONDS / 6)
        crowd.may_break = time.monotonic() + 60
        if kill == "engine":
            os.kill(world.at.engine_pid(), signal.SIGKILL)
            await asyncio.to_thread(until_sync, lambda: not world.at.ready()["ready"], 20)
        else:
            await asyncio.to_thread(world.at.stop)
            await asyncio.to_thread(world.start)
        await asyncio.to_thread(until_sync, lambda: world.at.ready()["ready"], 60)
        # What was under way then may be told of it a little later.
        crowd.may_break = time.monotonic() + 5
    await peace(crowd, SECONDS / 2)


async def peace(crowd: Crowd, seconds: float) -> None:
    """`seconds` in which nothing is killed, more if that is too little for some answers."""
    before = crowd.outcomes["answered"]
    await asyncio.sleep(seconds)
    await asyncio.to_thread(until_sync, lambda: crowd.outcomes["answered"] >= before + PEOPLE, 120)


async def watch(world: World) -> None:
    while True:
        await asyncio.sleep(1)
        if world.at.process.poll() is None:
            try:
                world.look()
            except (AssertionError, OSError, StopIteration):
                continue


async def all_of(world: World, crowd: Crowd) -> None:
    ended, watching = asyncio.Event(), asyncio.create_task(watch(world))
    people = asyncio.create_task(crowd.run(PEOPLE, ended))
    try:
        await disturb(world, crowd)
    finally:
        ended.set()
        await people
        watching.cancel()


def test_random_load(world: World) -> None:
    crowd = Crowd(lambda: world.at.address, alone(world.at), random.Random(5))
    asyncio.run(all_of(world, crowd))
    assert not crowd.wrong, (len(crowd.wrong), crowd.wrong[:10], crowd.outcomes)
    for outcome in ("answered", "equal", "left", "filled in", "error"):
        assert crowd.outcomes[outcome], crowd.outcomes
    for series in ("running", "waiting"):
        name = f'paddock_runner_requests_{series}{{model="smollm2"}}'
        until_sync(lambda name=name: world.at.metric(name) == 0, 10)  # type: ignore[misc]
    cells = {state: world.at.metric(f'{CELLS}{{model="smollm2",state="{state}"}}') for state in STATES}
    assert (cells["used"], cells["shared"]) == (0, 0)
    assert cells["free"] + cells["retained"] == cells["capacity"] >= SIZES["cells"], cells
    assert cells["free"] >= 0, cells
    for samples in world.seen.values():
        assert samples[-1] - samples[0] < GROWTH, samples
    memory = {pid: (samples[0] >> 20, samples[-1] >> 20, len(samples)) for pid, samples in world.seen.items()}
    print(dict(crowd.outcomes), cells, memory)
