"""What llama.cpp says it allocates for a model, and what its process takes: the engine's own loading, in a child.

Called by the tests and the benchmark of the memory estimate. llama.cpp keeps global state and logs sizes only while it
loads, so every measurement has a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 120
ENGINE = {
    "mode": "generate", "contextLength": 2048, "slots": 4, "cells": 8192, "sequences": 20, "batch": 512,
    "prefixBytes": 0, "typeK": "f16", "typeV": "f16",
    "flashAttention": "auto", "mmap": True, "mlock": False, "gpuLayers": 0, "threads": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Allocated:
    """Bytes. `weights` of all tensors, the others as logged (in hundredths of MiB); `resident` is what loading and one
    full step added to the process.
    """

    weights: int
    kv: int
    state: int
    compute: int
    output: int
    resident: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.state + self.compute + self.output


def engine(context: int = 2048, slots: int = 4, cache: str = "f16", **changes: Any) -> dict[str, Any]:
    """The `engine` object of a serve configuration."""
    sizes = {"contextLength": context, "slots": slots, "cells": context * slots}
    record = {**ENGINE, **sizes, "typeK": cache, "typeV": cache, **changes}
    retained = 16 if record["mode"] == "generate" else 0
    return {**record, "sequences": min(slots + retained, record["batch"])}


def allocated(model: Path, record: Mapping[str, Any], *, swa_full: bool = True, step: bool = False) -> Allocated:
    """Load `model` with `record`. `swa_full` False: as if the engine kept only the windows; `step`: decode once."""
    request = {"model": str(model), "engine": dict(record), "swaFull": swa_full, "step": step}
    command = [sys.executable, "-m", "tests.support.engine_memory", json.dumps(request)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return Allocated(**json.loads(done.stdout))


def _resident() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024


def _main(request: Mapping[str, Any]) -> None:
    from paddock_runner.core.embed_scheduler import Piece, Text
    from paddock_runner.core.engine_record import EngineRecord
    from paddock_runner.core.sequence import Chunk, Sequence
    from paddock_runner.engine import llama
    from paddock_runner.engine.backend import Abilities
    from paddock_runner.engine.llama_log import LogCapture, buffer_bytes

    if not request["swaFull"]:
        made = llama._context_params

        def windows_only(record: EngineRecord, abilities: Abilities, threads: int) -> Any:
            params = made(record, abilities, threads)
            params.swa_full = False
            return params

        llama._context_params = windows_only
    log = LogCapture("error")
    before = _resident()
    backend = llama.LlamaBackend([Path(request["model"])], log)
    record = EngineRecord.from_config(request["engine"])
    count = min(record.batch, record.context_length)
    if record.mode == "generate":
        loaded: Any = backend.load(record, lambda _: None)
        sizes = buffer_bytes(log.lines)
        if request["step"]:
            backend.decode([Chunk(Sequence(0, [5] * count, count, slot=0), 0, [5] * count, True)])
    else:
        embedder = backend.embedder()
        loaded = embedder.load(record, lambda _: None)
        sizes = buffer_bytes(log.lines)
        if request["step"]:
            embedder.run([Piece(Text(0, 0, [5] * count, slot=0), 0, [5] * count, last=True)])
    print(json.dumps({
        "weights": loaded.memory.weights, "kv": sizes.get("KV", 0), "state": sizes.get("RS", 0),
        "compute": sizes.get("compute", 0), "output": sizes.get("output", 0), "resident": _resident() - before,
    }))  # fmt: skip


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
