"""A stock `ollama pull` from `paddock-runner serve-blobs`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.waiting import Lines

from interop.stock import Ollama, StockError, serving


def test_a_stock_client_pulls_from_a_mirror(
    program: Path, tmp_path: Path, tiny: Path, created: Callable[..., Path]
) -> None:
    ours = created("tiny:1b", tiny, "SYSTEM Be kind.", "PARAMETER stop END")
    words = ["serve-blobs", "--models", str(ours), "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "paddock_runner", *words]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mirror,
        serving(program, tmp_path / "home", tmp_path / "theirs") as stock,
    ):
        assert mirror.stdout is not None
        try:
            address = json.loads(Lines(mirror.stdout).find(lambda line: "listening" in line))["address"]
            pulls(stock, ours, address)
        finally:
            mirror.kill()


def pulls(stock: Ollama, ours: Path, address: str) -> None:
    said = stock.pull(f"{address}/library/tiny:1b")
    assert (said[0], said[-1]) == ("pulling manifest", "success")
    for blob in (ours / "blobs").iterdir():
        assert (stock.models / "blobs" / blob.name).read_bytes() == blob.read_bytes()
    theirs = stock.models / "manifests" / address / "library" / "tiny" / "1b"
    assert theirs.read_bytes() == (ours / "manifests/registry.ollama.ai/library/tiny/1b").read_bytes()
    assert stock.show(f"{address}/library/tiny:1b")["system"] == "Be kind."
    with pytest.raises(StockError, match="file does not exist"):
        stock.pull(f"{address}/library/missing:1b")
