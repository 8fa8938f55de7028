"""What Paddock itself costs: Python per step of the loop, and memory that is not the model's. No peer, no load."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from benchmarks.common import Context, Row, median
from tests.engine.conftest import Harness, make_record, make_request
from tests.support.waiting import descendants

from paddock_runner.engine.backend import Sampler
from paddock_runner.engine.fake import FakeBackend
from paddock_runner.engine.grammar import Allowed
from paddock_runner.engine.protocol import Submit, encode

STEPS = 2000
LIMITS = {1: 60.0, 8: 120.0, 32: 300.0}
"""Sequences, and microseconds that a step of them may cost."""
MIB = 1 << 20
SLOTS = 8


class Instant(FakeBackend):
    """Decodes nothing and always says `a`, so that what is left is the loop."""

    def decode(self, chunks: Any) -> None:
        self.decodes += 1

    def sample(self, row: int, sampler: Sampler, allowed: Allowed | None = None) -> int:
        return ord("a")


def step_cost(sequences: int) -> float:
    """Microseconds of processor time of the loop's thread per step in which `sequences` decode."""
    cells = (STEPS + 200) * sequences
    record = make_record(context_length=4096, cells=cells, slots=sequences, sequences=sequences)
    harness = Harness(Instant(), record)
    harness.front.setblocking(True)
    threading.Thread(target=_drain, args=(harness,), daemon=True).start()
    for handle in range(sequences):
        harness.front.sendall(encode(Submit(handle, make_request("hello", max_tokens=STEPS + 150))))
    for _ in range(100):
        harness.loop.turn()
    began = time.thread_time()
    for _ in range(STEPS):
        harness.loop.turn()
    return (time.thread_time() - began) / STEPS * 1e6


def _drain(harness: Harness) -> None:
    while harness.front.recv(1 << 20):
        pass


def python(context: Context, best: tuple[str, ...]) -> list[Row]:
    """The loop without a model."""
    found = {count: median([step_cost(count) for _ in range(context.rounds)]) for count in LIMITS}
    return [
        Row(
            f"Python per step of {count} sequences",
            f"{found[count]:.0f} µs",
            "no yardstick",
            found[count],
            limit,
            " µs",
            False,
        )
        for count, limit in LIMITS.items()
    ]


def own_memory(pid: int) -> int:
    """Bytes of a process (PSS) less those of mapped weights."""
    total, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            counted = "/blobs/" not in line
        elif words[0] == "Pss:" and counted:
            total += int(words[1]) * 1024
    return total


def memory(context: Context, best: tuple[str, ...]) -> list[Row]:
    """The engine less llama.cpp's buffers, and the front with its template worker."""
    with context.serving(slots=SLOTS, context=1024) as base:
        body = {"model": "smollm2", "prompt": "Hello", "stream": False, "options": {"num_predict": 8}}
        httpx.post(f"{base}/api/generate", json=body, timeout=60).raise_for_status()
        sizes = {pid: own_memory(pid) for pid in descendants(os.getpid())}
        lines = httpx.get(f"{base}/metrics").text.splitlines()
    buffers = sum(_bytes(lines, kind) for kind in ("kv", "compute", "output"))
    engine = max(sizes.values())
    front = sum(sizes.values()) - engine
    shown = f"buffers {buffers / MIB:.0f} MiB"
    own = (engine - buffers) / MIB
    return [
        Row(f"engine, {SLOTS} slots", f"{engine / MIB:.0f} MiB less weights", shown, own, 70, " MiB", False),
        Row("front and template worker", f"{front / MIB:.0f} MiB", "-", front / MIB, 70, " MiB", False),
    ]


def _bytes(lines: list[str], kind: str) -> float:
    start = f'paddock_runner_memory_bytes{{kind="{kind}",'
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))
