"""Download one file as told by the JSON of the first argument; started, and killed, by `tests.support.downloads.child`.

Prints `begun` once it is about to ask, `done` once the blob is published.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.downloads import FAST

from paddock_runner.core.digest import Digest
from paddock_runner.sources.download.blob import download
from paddock_runner.sources.network import Network
from paddock_runner.sources.plan import PlannedFile, Remote
from paddock_runner.sources.transport import Transport
from paddock_runner.store.store import Store


async def main(spec: dict[str, Any]) -> None:
    limits = replace(FAST, **spec["limits"])
    file = PlannedFile("model", "model.gguf", Remote(spec["url"]), spec["size"], Digest(spec["digest"]))
    async with Transport(Network.from_environment(os.environ)) as transport:
        print("begun", flush=True)
        await download(Store(Path(spec["store"])), file, transport, lambda digest, done, total: None, limits=limits)
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
