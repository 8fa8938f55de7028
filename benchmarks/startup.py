"""Seconds from `paddock up` to its `ready` line with a warm cache."""

from __future__ import annotations

from benchmarks.common import Context, Row, median


def measure(context: Context) -> list[Row]:
    seconds = []
    for _ in range(context.rounds):
        with context.up() as (_pid, _url, _key, taken):
            seconds.append(taken)
    a = median(seconds)
    return [Row("start to ready, warm", f"{a:.2f} s", "-", a, 5, " s", False)]
