"""One stream against llama-bench: writing and reading."""

from __future__ import annotations

import json
import random
import subprocess

import httpx
from benchmarks.common import Context, Row, median
from benchmarks.decode import stream_rate
from benchmarks.engine.client import words

READ, WRITTEN = 512, 128


def llama_bench(context: Context, flag: str, tokens: int) -> float:
    """Tokens per second of `flag`: -p to read, -n to write."""
    none = "-n" if flag == "-p" else "-p"
    command = [str(context.llama / "llama-bench"), "-m", str(context.gguf), flag, str(tokens), none, "0", "-r", "1"]
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def read_rate(base: str, luck: random.Random) -> float:
    """Tokens per second of reading a new prompt, as the runner counts them."""
    body = {"model": "smollm2", "prompt": words(luck, READ), "raw": True, "stream": False}
    reply = httpx.post(f"{base}/api/generate", json={**body, "options": {"num_predict": 1}}, timeout=120)
    found = reply.raise_for_status().json()
    return float(found["prompt_eval_count"] / found["prompt_eval_duration"] * 1e9)


def single(context: Context, best: tuple[str, ...]) -> list[Row]:
    """Interleaved rounds of both."""
    luck, rates = random.Random(3), dict[str, list[float]]()
    with context.serving(slots=1, context=1024) as base:
        stream_rate(base)
        for _ in range(context.rounds):
            rates.setdefault("tg", []).append(llama_bench(context, "-n", WRITTEN))
            rates.setdefault("write", []).append(stream_rate(base))
            rates.setdefault("pp", []).append(llama_bench(context, "-p", READ))
            rates.setdefault("read", []).append(read_rate(base, luck))
    found = {name: median(values) for name, values in rates.items()}
    return [
        _row("one stream, written", found["write"], "tg", found["tg"], 0.97),
        _row(f"a prompt of {READ} tokens, read", found["read"], "pp", found["pp"], 0.9),
    ]


def _row(what: str, ours: float, kind: str, theirs: float, target: float) -> Row:
    return Row(what, f"{ours:.1f} tokens/s", f"llama-bench {kind} {theirs:.1f}", ours / theirs, target, "×", True)
