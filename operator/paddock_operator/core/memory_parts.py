"""The memory that a model takes with an engine record, part by part, from what a pull said about the file's header.

Called by `memory`. The runner computes the same from the same facts (`paddock_runner.core.memory`, for
`paddock-runner estimate`); neither side imports the other, `tests/contract` holds them together. docs/memory.md says
what the facts are and where the formulas come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROCESS_BYTES = 146 * 1024 * 1024
"""Front, engine and libraries without anything of a model: measured, rounded up."""
TOKEN_BYTES = 550
"""What the vocabulary takes in the engine for each token, twice for a moment while weights are loaded: measured."""
PADDING = 256
MAX_NUMBER = 1 << 53
MAX_CACHES = 4
_FACTS = ("input", "output", "blocks", "state", "heads")
_STEP = ("token", "sequence", "plain", "scored", "cell")
# bytes per element: blocks of 32 elements have a scale (and a minimum) besides the quants
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
    """Bytes: `weights` of the model, `kv` and `state` of all sequences, `compute` of one step's tensors, `output` of
    the rows that are read from it, `process` of the programs without them.
    """

    weights: int
    kv: int
    state: int
    compute: int
    output: int
    process: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.state + self.compute + self.output + self.process


def checked_facts(found: Any) -> dict[str, Any]:
    """The `memory` of a pull's details as far as it is what docs/memory.md says; empty if it is anything else."""
    if not isinstance(found, Mapping):
        return {}
    step, caches = found.get("step"), found.get("caches")
    if not _counts(found, _FACTS) or not isinstance(step, Mapping) or not _counts(step, _STEP):
        return {}
    if not isinstance(caches, list | tuple) or len(caches) > MAX_CACHES or not all(map(_is_cache, caches)):
        return {}
    known = ("window", "key", "value", "padded")
    return {
        **{name: found[name] for name in _FACTS},
        "caches": [{name: cache[name] for name in known if name in cache} for cache in caches],
        "step": {name: step[name] for name in _STEP},
        "encoder": found.get("encoder") is True,
        # Pulls before embedding models were served did not tell these two.
        "width": found["width"] if _counts(found, ("width",)) else 0,
        "last": found.get("last") is True,
    }


def _is_cache(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and _counts(found, ("window", "key", "value"))
        and ("padded" not in found or _counts(found, ("padded",)))
    )


def _counts(found: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    values = [found.get(name) for name in names]
    return all(type(value) is int and 0 <= value <= MAX_NUMBER for value in values)


def estimate_parts(engine: Mapping[str, Any], facts: Mapping[str, Any], vocab: int) -> Estimate:
    """All parts; `facts` as `checked_facts` leaves them, `vocab` in tokens."""
    return Estimate(
        weights=facts["input"] + facts["blocks"] + facts["output"],
        kv=kv_bytes(engine, facts),
        state=facts["state"] * sequences(engine, facts),
        compute=compute_bytes(engine, facts, vocab),
        output=output_bytes(engine, facts, vocab),
        process=PROCESS_BYTES + TOKEN_BYTES * vocab + (engine["prefixBytes"] if shares_prefixes(facts) else 0),
    )


def sequences(engine: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """How many sequence ids the engine makes: with a state for each, one for each slot."""
    return int(engine["slots"] if facts["state"] else engine["sequences"])


def shares_prefixes(facts: Mapping[str, Any]) -> bool:
    """Every cell stays until it is removed: no windows, no recurrent state."""
    return not (facts["state"] or any(cache["window"] for cache in facts["caches"]))


def outputs(engine: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """Rows that are read from one step at most: of each sequence, or of all tokens where texts are never cut."""
    each = engine["mode"] == "generate" or facts["last"]
    return sequences(engine, facts) if each else int(engine["batch"])


def output_bytes(engine: Mapping[str, Any], facts: Mapping[str, Any], vocab: int) -> int:
    """Bytes of those rows: llama.cpp keeps room for logits even where only vectors are read."""
    width = 0 if engine["mode"] == "generate" else facts["width"]
    return int(4 * (vocab + width) * outputs(engine, facts))


def kv_bytes(engine: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """Bytes of keys and values. The engine keeps all cells of windowed layers, so windows save nothing."""
    plain = engine["flashAttention"] == "off"
    total = 0
    for cache in facts["caches"]:
        value = cache.get("padded", cache["value"]) if plain else cache["value"]
        row = cache["key"] * CACHE_BYTES[engine["typeK"]] + value * CACHE_BYTES[engine["typeV"]]
        total += int(row * _padded(engine["cells"]))
    return total


def compute_bytes(engine: Mapping[str, Any], facts: Mapping[str, Any], vocab: int) -> int:
    """Bytes of the tensors of the largest step: masks of attention beside activations, or the logits."""
    step, flash, encoder = facts["step"], engine["flashAttention"] != "off", facts["encoder"]
    batch = engine["batch"] if encoder else min(engine["batch"], engine["cells"])
    several = sequences(engine, facts)
    tokens = -(-min(batch, _padded(engine["cells"])) // several) * several
    cells = [tokens] if encoder else [_padded(engine["cells"]) for _ in facts["caches"]]
    masks = sum(cells) * tokens * (2 if flash else 4)
    if flash:
        activations = step["token"] * tokens
    else:
        most = max(cells, default=0)
        scores = (4 * facts["heads"] * most + step["scored"]) * tokens + step["cell"] * most
        activations = max(step["plain"] * tokens, scores)
    logits = 0 if encoder else 4 * vocab * min(outputs(engine, facts), tokens)
    beside = 0
    if engine["mode"] != "generate":
        # What pools reads inputs at the very end: weights of the means, or rows, which keep logits out of freed memory.
        activations += 0 if facts["last"] else 4 * tokens * several
        beside = masks + 4 * facts["width"] * tokens
    return int(max(masks + activations + step["sequence"] * several, logits and logits + beside))


def _padded(cells: int) -> int:
    return -(-cells // PADDING) * PADDING
