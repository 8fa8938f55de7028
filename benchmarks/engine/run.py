"""The engine under load against its peers: `python -m benchmarks.engine.run --llama DIR [--rounds N] [--only NAME…]`.

`--llama` is as in benchmarks/run.py. All servers of a comparison run at once, with the same model, slots and context,
and are asked in turn: a noisy machine disturbs all alike. Figures are medians of the rounds and of the runner itself,
not through the gateway. Writes report.md beside this file when nothing is left out.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from pathlib import Path

from benchmarks.common import Context, Row, llama_commit
from benchmarks.engine.comparisons import COMPARISONS, best_batch, flags
from benchmarks.run import HEADER, cpu_model

REPORT = Path(__file__).with_name("report.md")


def report(rows: list[Row], rounds: int, batch: int) -> str:
    head = (
        "# The engine under load\n\n"
        f"{datetime.datetime.now(datetime.UTC).date()}, {cpu_model()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {llama_commit()}, SmolLM2-135M-Instruct Q4_1. `python -m benchmarks.engine.run "
        f"--rounds {rounds}`; medians of interleaved rounds. llama-server has the unified cache and as many slots as "
        f"Paddock; at its best it has `{' '.join(flags(batch))}`. Ollama 0.33.0 is as it comes, and tuned with as many "
        "parallel requests and flash attention.\n\n"
    )
    return head + HEADER + "".join(row.markdown() for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, default=Path(os.environ.get("LLAMA_CPP_BIN", "build/llama.cpp/bin")))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="llama-server's best -b and -ub, if it was found before")
    parser.add_argument("--only", nargs="*", choices=COMPARISONS, default=[*COMPARISONS])
    arguments = parser.parse_args()
    rows: list[Row] = []
    with Context(arguments.llama, arguments.rounds) as context:
        batch = arguments.batch or best_batch(context)
        print(f"llama-server at its best: -b {batch} -ub {batch}", flush=True)
        for name in arguments.only:
            new = COMPARISONS[name](context, flags(batch))
            rows += new
            print("".join(row.markdown() for row in new), end="", flush=True)
    if arguments.only == [*COMPARISONS]:
        REPORT.write_text(report(rows, arguments.rounds, batch))


if __name__ == "__main__":
    main()
