"""Measure Paddock against llama.cpp's own programs and against itself; write `benchmarks/report.md`.

    python benchmarks/run.py [--llama DIR] [--rounds N] [--only NAME…]

`--llama` is a folder with llama-bench and llama-server built from the llama.cpp that llama-cpp-python vendors
(CONTRIBUTING.md says how). Each figure is the median of interleaved rounds, so that a noisy machine disturbs both sides
alike. Every benchmark is a module of this folder with `measure(context) -> list[Row]`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Context, Row, llama_commit

NAMES = ("decode", "parallel", "gateway", "memory", "startup")
HEADER = "| what | Paddock | yardstick | figure | target | met |\n|---|---|---|---|---|---|\n"


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def report(rows: list[Row], rounds: int) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    head = (
        "# Benchmark report\n\n"
        f"{datetime.datetime.now(datetime.UTC).date()}, commit {commit}, {cpu_model()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {llama_commit()}, SmolLM2-135M-Instruct Q4_1.\n"
        f"Command: `make bench`; medians of {rounds} interleaved rounds.\n\n"
    )
    return head + HEADER + "".join(row.markdown() for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, default=Path(os.environ.get("LLAMA_CPP_BIN", "build/llama.cpp/bin")))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    arguments = parser.parse_args()
    rows: list[Row] = []
    with Context(arguments.llama, arguments.rounds) as context:
        for name in arguments.only:
            new = importlib.import_module(f"benchmarks.{name}").measure(context)
            rows += new
            print("".join(row.markdown() for row in new), end="", flush=True)
    if tuple(arguments.only) == NAMES:
        Path(__file__).with_name("report.md").write_text(report(rows, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
