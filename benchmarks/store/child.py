"""Download one file and print what it took: `python -m benchmarks.store.child STORE URL DIGEST SIZE`.

Started by `benchmarks.store.run`, sometimes to be killed. The seconds are those of `download` alone; the interpreter's
start is not in them.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path

from paddock_runner.core.digest import Digest
from paddock_runner.sources.download.blob import download
from paddock_runner.sources.network import Network
from paddock_runner.sources.plan import PlannedFile, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.store import Store


async def main(folder: str, url: str, digest: str, size: str) -> None:
    file = PlannedFile("", "random", Remote(url), int(size), Digest(digest))
    async with Transport(Network.from_environment(os.environ)) as transport:
        print("begun", flush=True)
        wall, cpu = time.perf_counter(), time.process_time()
        await download(Store(Path(folder)), file, transport, lambda digest, done, total: None)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": wall, "cpu": cpu, "peak": peak}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
