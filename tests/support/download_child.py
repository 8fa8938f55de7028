"""Download one file as told by the JSON of the first argument; started, and killed, by `tests.support.downloads.child`.

Prints `begun` once it is about to ask, `done` once the blob is published. In the file `meter`, if one is named, it
counts, as two 64-bit numbers, the bytes that it took from its connections and the most that it took at once.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support.downloads import FAST

from paddock_runner.core.digest import Digest
from paddock_runner.sources.download.blob import download
from paddock_runner.sources.download.requests import Incoming, Requests
from paddock_runner.sources.network import Network
from paddock_runner.sources.plan import PlannedFile, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.store import Store

METER = struct.Struct("<QQ")


def count(path: Path) -> None:
    """Keep the count in a file that survives this process."""
    path.write_bytes(METER.pack(0, 0))
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), METER.size)
    plain = Requests.pieces

    async def pieces(self: Requests, incoming: Incoming) -> AsyncIterator[bytes]:
        async for data in plain(self, incoming):
            total, most = METER.unpack_from(memory)
            METER.pack_into(memory, 0, total + len(data), max(most, len(data)))
            yield data

    Requests.pieces = pieces  # type: ignore[method-assign]


async def main(spec: dict[str, Any]) -> None:
    file = PlannedFile("model", "model.gguf", Remote(spec["url"]), spec["size"], Digest(spec["digest"]))
    async with Transport(Network.from_environment(os.environ)) as transport:
        print("begun", flush=True)
        await download(Store(Path(spec["store"])), file, transport, lambda digest, done, total: None, limits=FAST)
    print("done", flush=True)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    if told["meter"]:
        count(Path(told["meter"]))
    asyncio.run(main(told))
