"""The memory that a model takes with the load-time numbers of an engine, part by part, before any byte of it is here.

Used by `commands.estimate`. The planner of the operator computes the same from the same facts
(`paddock_operator.core.memory_parts`; neither side imports the other): `tests/contract` holds them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paddock_runner.core.engine_record import EngineRecord

PROCESS_BYTES = 146 << 20
"""Front, engine and libraries without anything of a model: measured, rounded up."""
TOKEN_BYTES = 550
"""What the vocabulary takes in the engine for each token, twice for a moment while weights are loaded: measured."""
PADDING = 256

# Bytes per element: blocks of 32 elements have a scale (and a minimum) besides the quants.
CACHE_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes. `weights` of the model and its adapters, `kv` and `state` of all sequences, `compute` of one step's
    tensors, `output` of the rows that are read from it, `process` of the programs without them.
    """

    weights: int
    kv: int
    state: int
    compute: int
    output: int
    projector: int
    process: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.state + self.compute + self.output + self.projector + self.process


def estimate(
    facts: Mapping[str, Any], vocab: int, record: EngineRecord, *, adapters: int = 0, projector: int = 0
) -> Estimate:
    """All parts. `facts` as `memory_facts.memory_facts` makes them, `vocab` tokens, other sizes in bytes."""
    return Estimate(
        weights=facts["input"] + facts["blocks"] + facts["output"] + adapters,
        kv=kv_bytes(facts["caches"], record),
        state=facts["state"] * sequences(facts, record),
        compute=compute_bytes(facts, vocab, record),
        output=output_bytes(facts, vocab, record),
        projector=projector,
        process=PROCESS_BYTES + TOKEN_BYTES * vocab + (record.prefix_bytes if shares_prefixes(facts) else 0),
    )


def sequences(facts: Mapping[str, Any], record: EngineRecord) -> int:
    """How many sequence ids the engine makes: with a state for each, one for each slot."""
    return record.slots if facts["state"] else record.sequences


def shares_prefixes(facts: Mapping[str, Any]) -> bool:
    """Every cell stays until it is removed: no windows, no recurrent state."""
    return not (facts["state"] or any(cache["window"] for cache in facts["caches"]))


def outputs(facts: Mapping[str, Any], record: EngineRecord) -> int:
    """Rows that are read from one step at most: of each sequence, or of all tokens where texts are never cut."""
    return sequences(facts, record) if record.mode == "generate" or facts.get("last") else record.batch


def output_bytes(facts: Mapping[str, Any], vocab: int, record: EngineRecord) -> int:
    """Bytes of those rows: llama.cpp keeps room for logits even where only vectors are read."""
    width = 0 if record.mode == "generate" else facts.get("width", 0)
    return int(4 * (vocab + width) * outputs(facts, record))


def kv_bytes(caches: Sequence[Mapping[str, int]], record: EngineRecord, *, swa_full: bool = True) -> int:
    """Bytes of keys and values. With `swa_full`, as the engine loads models, windows save nothing."""
    total = 0
    for cache in caches:
        value = cache.get("padded", cache["value"]) if record.flash_attention == "off" else cache["value"]
        row = cache["key"] * CACHE_BYTES[record.type_k] + value * CACHE_BYTES[record.type_v]
        total += int(row * _cells(cache["window"], record, swa_full))
    return total


def _cells(window: int, record: EngineRecord, swa_full: bool) -> int:
    cells = padded(record.cells)
    if not window or swa_full:
        return cells
    return padded(min(cells, window * record.sequences + _tokens(record, cells)))


def compute_bytes(facts: Mapping[str, Any], vocab: int, record: EngineRecord) -> int:
    """Bytes of the tensors of the largest step: masks of attention beside activations, or the logits."""
    step, flash = facts["step"], record.flash_attention != "off"
    batch = record.batch if facts["encoder"] else _tokens(record, record.cells)
    several = sequences(facts, record)
    tokens = -(-min(batch, padded(record.cells)) // several) * several
    cells = [tokens] if facts["encoder"] else [padded(record.cells) for _ in facts["caches"]]
    masks = sum(cells) * tokens * (2 if flash else 4)
    if flash:
        activations = step["token"] * tokens
    else:
        most = max(cells, default=0)
        scores = (4 * facts["heads"] * most + step["scored"]) * tokens + step["cell"] * most
        activations = max(step["plain"] * tokens, scores)
    logits = 0 if facts["encoder"] else 4 * vocab * min(outputs(facts, record), tokens)
    beside = 0
    if record.mode != "generate":
        # What pools reads inputs at the very end: weights of the means, or rows, which keep logits out of freed memory.
        activations += 0 if facts.get("last") else 4 * tokens * several
        beside = masks + 4 * facts.get("width", 0) * tokens
    return int(max(masks + activations + step["sequence"] * several, logits and logits + beside))


def _tokens(record: EngineRecord, cells: int) -> int:
    return min(record.batch, cells)


def padded(cells: int) -> int:
    """Cells as llama.cpp rounds them."""
    return -(-cells // PADDING) * PADDING
