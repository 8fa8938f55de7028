"""Single-stream decode of the runner (through HTTP) against llama-bench's token generation on the same llama.cpp."""

from __future__ import annotations

import json
import subprocess
import time

import httpx

from benchmarks.common import Context, Row, median

TOKENS = 128
PROMPT = "<|im_start|>user\nTell me a long story about a llama and a horse.<|im_end|>\n<|im_start|>assistant\n"


def llama_bench(context: Context) -> float:
    command = [
        str(context.llama / "llama-bench"),
        "-m",
        str(context.gguf),
        "-p",
        "0",
        "-n",
        str(TOKENS),
        "-r",
        "1",
        "-o",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def stream_rate(base: str) -> float:
    """Tokens per second between the first and the last token, as the client sees them."""
    body = {"model": "smollm2", "prompt": PROMPT, "raw": True, "options": {"num_predict": TOKENS, "temperature": 0}}
    first = last = 0.0
    with httpx.stream("POST", base + "/api/generate", json=body, timeout=120) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            last = time.perf_counter()
            first = first or last
            final = json.loads(line)
    return float(final["eval_count"] - 1) / (last - first)


def measure(context: Context) -> list[Row]:
    ours, theirs = [], []
    with context.serving(slots=1, context=1024) as base:
        stream_rate(base)
        for _ in range(context.rounds):
            theirs.append(llama_bench(context))
            ours.append(stream_rate(base))
    a, b = median(ours), median(theirs)
    return [Row("decode, one stream", f"{a:.1f} tokens/s", f"llama-bench {b:.1f} tokens/s", a / b, 0.85, "×", True)]
