"""What a source would bring now, without a byte of it: how drift of a pin is found. Called by `commands.pull`."""

from __future__ import annotations

import asyncio
from typing import Any

from paddock_runner.core.digest import Digest
from paddock_runner.sources.base import Source
from paddock_runner.sources.fetch import GGUF_KINDS
from paddock_runner.sources.network import Network
from paddock_runner.sources.plan import FetchPlan
from paddock_runner.sources.transport import Transport

MAX_WORD = 128
MAX_FILES = 48
"""Digests that fit into a termination message beside all else."""


def check(source: Source, network: Network) -> dict[str, Any]:
    """`digest` of the manifest, `revision`, `files` as digests; what the source does not tell is left out.

    Raises StoreError.
    """
    plan = asyncio.run(_plan(source, network))
    digests = (str(file.digest) for file in plan.files if file.digest is not None and file.kind in GGUF_KINDS)
    told = {
        "digest": str(Digest.of(plan.manifest)) if plan.manifest is not None else "",
        "revision": plan.revision if len(plan.revision) <= MAX_WORD else "",
        "files": list(dict.fromkeys(digests))[:MAX_FILES],
    }
    return {name: value for name, value in told.items() if value}


async def _plan(source: Source, network: Network) -> FetchPlan:
    async with Transport(network, source.access) as transport:
        return await source.plan(transport)
