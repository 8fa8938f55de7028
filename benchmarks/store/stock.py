"""A pull against a stock `ollama pull` of the same model from the same registry. Used by `benchmarks.store.run`.

The registry is `paddock-runner serve-blobs`, which both sides ask over loopback. Ours is the whole command, from the
interpreter's start to its end; theirs is one call to an `ollama serve` that runs already. Ours forces every byte to
disk before it names the model, `ollama` leaves that to the kernel: a second row adds the sync(2) that it leaves out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import Child, Row
from tests.support.gguf_maker import make_gguf

from interop.build import ensure
from interop.stock import Ollama, serving

NAME = "library/wide:1b"
RUNNER = [sys.executable, "-m", "paddock_runner"]


@contextlib.contextmanager
def mirror(folder: Path) -> Iterator[str]:
    """Serve a model with one layer of about 0.8 GB; yields the registry's host and port."""
    models, modelfile = folder / "mirrored", folder / "Modelfile"
    gguf = make_gguf(folder / "wide.gguf", embedding=4096, heads=32, kv_heads=32, feed_forward=11008)
    modelfile.write_text(f"FROM {gguf}\n")
    create = [*RUNNER, "store", "--models", str(models), "create", NAME, "-f", str(modelfile)]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
    gguf.unlink()
    server = Child([*RUNNER, "serve-blobs", "--models", str(models), "--listen", "127.0.0.1:0"])
    try:
        yield server.event("listening")["address"]
    finally:
        server.stop()


def ours(host: str, folder: Path) -> float:
    """Seconds of `paddock-runner pull` into an empty folder."""
    request = json.dumps({"source": {"ollama": {"name": f"http://{host}/{NAME}"}}, "digest": None})
    command = [*RUNNER, "pull", "--models", str(folder), "--request", "-"]
    names = os.environ | {"PADDOCK_ALLOW_INSECURE_HOSTS": host}
    began = time.perf_counter()
    subprocess.run(command, input=request, text=True, check=True, env=names, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def theirs(host: str, stock: Ollama) -> tuple[float, float]:
    """Seconds of a pull by a running `ollama` that has no models, and until its bytes are on the disk too."""
    began = time.perf_counter()
    said = stock.pull(f"{host}/{NAME}")
    took = time.perf_counter() - began
    os.sync()
    durable = time.perf_counter() - began
    if said[-1] != "success":
        raise SystemExit(f"ollama said {said[-1]!r}")
    stock.ask("DELETE", "/api/delete", {"model": f"{host}/{NAME}"})
    return took, durable


def against_stock(fast: Path, folder: Path, rounds: int) -> list[Row]:
    """Interleaved pulls of both; `fast` is a folder in memory for what is served."""
    own, other = list[float](), list[tuple[float, float]]()
    with mirror(fast) as host, serving(ensure(), folder / "home", folder / "stock") as stock:
        for number in range(rounds):
            os.sync()
            own.append(ours(host, folder / f"own-{number}"))
            shutil.rmtree(folder / f"own-{number}")
            os.sync()
            other.append(theirs(host, stock))
    mine = statistics.median(own)
    peers = [statistics.median(column) for column in zip(*other, strict=True)]
    return [
        Row(f"a model of 0.8 GB, {what}", f"{mine:.2f} s", f"ollama 0.33.0 {peer:.2f} s", peer / mine, 1.5, "×", True)
        for what, peer in zip(("ours on the disk, theirs in memory", "both on the disk"), peers, strict=True)
    ]
