"""Idle memory of front, engine and gateway: PSS less file-mapped weights and the buffers that llama.cpp reports."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import httpx

from benchmarks.common import Context, Row

MIB = 1 << 20


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    direct = [int(word) for word in text.split()]
    return direct + [grandchild for child in direct for grandchild in children(child)]


def pss(pid: int) -> int:
    """Bytes of PSS without mappings of cache blobs (the weights)."""
    total, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            counted = "/blobs/sha256-" not in line
        elif line.startswith("Pss:") and counted:
            total += int(line.split()[1]) * 1024
    return total


def reported_buffers(context: Context) -> int:
    config = json.loads(next((context.home / "run").glob("endpoint-*.json")).read_text())
    memory = httpx.get(config["models"][0]["backends"][0] + "/readyz").json()["memory"]
    return int(memory["kv"]) + int(memory.get("compute", 0))


def measure(context: Context) -> list[Row]:
    with context.up() as (pid, _url, _key, _seconds):
        time.sleep(3)
        family = children(pid)
        used = sum(pss(child) for child in family)
        buffers = reported_buffers(context)
    a = (used - buffers) / MIB
    ours = f"{used / MIB:.0f} MiB in {len(family)} processes"
    return [
        Row("idle memory of front, engine, gateway", ours, f"buffers {buffers / MIB:.0f} MiB", a, 250, " MiB", False)
    ]
