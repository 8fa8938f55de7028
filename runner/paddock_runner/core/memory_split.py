"""What each GPU holds when layers are split over them, as llama.cpp assigns them.

Used by `commands.estimate`. Weights, keys, values and state are those of the layers; the bytes of a step are taken to
be the same on every GPU that has layers, which is the most it can be.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.memory import compute_bytes, kv_bytes, sequences
from paddock_runner.core.memory_blocks import Block
from paddock_runner.core.memory_facts import Parts


def split(
    parts: Parts, facts: Mapping[str, Any], vocab: int, record: EngineRecord, shares: Sequence[float]
) -> list[dict[str, int]]:
    """Bytes on each GPU: weights, kv, state, compute, total. `shares`: how much of the layers each gets, in any unit.

    `record.gpu_layers` < 0 means all layers and the output. Raises ValueError for shares that are negative or all zero.
    """
    if not shares:
        return []
    if min(shares) < 0 or sum(shares) <= 0:
        raise ValueError("the shares of the GPUs must be positive numbers")
    blocks = parts.model.blocks
    owners = _owners(len(blocks) + 1, record.gpu_layers, shares)
    step = compute_bytes(facts, vocab, record)
    found = []
    for gpu in range(len(shares)):
        mine = [block for index, block in enumerate(blocks) if owners[index] == gpu]
        last = owners[-1] == gpu
        weights = sum(block.weights for block in mine) + (parts.output + parts.tied if last else 0)
        sizes = {
            "weights": weights,
            "kv": kv_bytes([_cache(block) for block in mine if block.cached[0]], record),
            "state": 4 * sum(block.state for block in mine) * sequences(facts, record),
            "compute": step if mine or last else 0,
        }
        found.append({**sizes, "total": sum(sizes.values())})
    return found


def _owners(layers: int, wanted: int, shares: Sequence[float]) -> list[int | None]:
    """The GPU of each layer, the output being the last; None: the processor. The last layers go first."""
    count = layers if wanted < 0 else min(wanted, layers)
    start = layers - count
    ends = [end / sum(shares) for end in accumulate(shares)]
    last = len(shares) - 1
    return [
        None if layer < start else min(bisect_right(ends, (layer - start) / count), last) for layer in range(layers)
    ]


def _cache(block: Block) -> dict[str, int]:
    return {"window": block.window, "key": block.cached[0], "value": block.cached[1]}
