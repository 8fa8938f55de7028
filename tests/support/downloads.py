"""Downloads from a server of the tests, in this process or in a child that may be killed. For tests of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from paddock_runner.core.digest import Digest
from paddock_runner.sources.download.blob import download
from paddock_runner.sources.download.pace import DownloadLimits
from paddock_runner.sources.network import Network
from paddock_runner.sources.plan import PlannedFile, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.blobs import Blob
from paddock_runner.store.store import Store
from paddock_runner.store.writer import Check

CHUNK = 64 * 1024
FAST = DownloadLimits(
    chunk_bytes=CHUNK,
    segment_bytes=4 * CHUNK,
    window_bytes=1 << 30,
    attempts=3,
    pause_seconds=0.01,
    stall_seconds=0.4,
    tick_seconds=0.05,
    sync_bytes=8 * CHUNK,
)


def random_file(size: int, seed: int = 0) -> bytes:
    """`size` bytes that begin like a GGUF file; the same for the same seed."""
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


def environment(host: str, connections: int = 1, rate: str = "0") -> dict[str, str]:
    """What makes a puller accept `host` on loopback."""
    return {
        "PADDOCK_ALLOW_INSECURE_HOSTS": host,
        "PADDOCK_DOWNLOAD_CONNECTIONS": str(connections),
        "PADDOCK_DOWNLOAD_RATE": rate,
    }


@dataclass
class Pull:
    """One file at `url` and how to fetch it; `seen` collects what progress was told."""

    store: Store
    url: str
    digest: Digest | None
    size: int | None = None
    kind: str = "model"
    connections: int = 1
    rate: str = "0"
    limits: DownloadLimits = FAST
    check: Check | None = None
    seen: list[tuple[Digest, int, int]] = field(default_factory=list)

    async def run(self) -> Blob:
        """Download, within 30 seconds."""
        host = self.url.split("/")[2]
        network = Network.from_environment(environment(host, self.connections, self.rate))
        file = PlannedFile(self.kind, "model.gguf", Remote(self.url), self.size, self.digest)
        async with asyncio.timeout(30), Transport(network) as transport:
            return await download(self.store, file, transport, self._note, self.check, self.limits)

    def _note(self, digest: Digest, done: int, total: int) -> None:
        self.seen.append((digest, done, total))


@contextlib.contextmanager
def child(
    store: Path, url: str, digest: Digest, size: int, connections: int = 4, meter: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that downloads one file and prints `done`; killed at the end if it still runs.

    It counts what it takes in the file `meter` of its own, as `tests.support.download_child` says.
    """
    spec = {"store": str(store), "url": url, "digest": digest.hex, "size": size, "meter": str(meter or "")}
    command = [sys.executable, "-m", "tests.support.download_child", json.dumps(spec)]
    names = os.environ | environment(url.split("/")[2], connections)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=names) as process:
        try:
            yield process
        finally:
            process.kill()
