"""What a GGUF header says about memory, in a few numbers: weights, cache per cell, state per sequence, bytes of a step.

Used by `store.gguf_facts` (the `memory` of a pull's details), `memory` and `memory_split`. Everything that depends on
the architecture is settled here, so that whoever has these numbers and an engine record can estimate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from paddock_runner.core.memory_blocks import STEADY, Block, Model, Numbers, block
from paddock_runner.core.memory_graph import TOKENS, step_bytes
from paddock_runner.core.memory_windows import caching_layers, window_of

MAX_BLOCKS = 512
_BLOCK = re.compile(r"blk\.(\d{1,4})\.(.+)")
_INPUT = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
_SEVERAL = 9
_MANY_CELLS = 1 << 22
_FLOAT = 4
# Decoders and encoders that llama.cpp runs without a cache.
_UNCACHED = frozenset({
    "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert",
    "wavtokenizer-dec", "gemma-embedding", "dream", "llada", "llada-moe", "rnd1",
})  # fmt: skip

_TWO_PARTS = frozenset({"t5", "t5encoder"})
"""Encoders that llama.cpp makes a cache for, which only a decoder would use."""


class Tensor(Protocol):
    """One tensor of a file: dimensions in its order, size in bytes."""

    @property
    def name(self) -> str: ...
    @property
    def dimensions(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...


class Header(Protocol):
    """A checked GGUF header."""

    @property
    def architecture(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, object]: ...
    @property
    def tensors(self) -> Sequence[Tensor]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """A model cut for the estimate. Bytes of weights: `input` stays with the processor, `output` is the last layer.

    `tied`: the output reads the input's table, so a GPU with the output has a copy of it.
    """

    model: Model
    input: int
    output: int
    tied: int


def parts_of(header: Header) -> Parts:
    """Cut a model into blocks and ends."""
    numbers = Numbers(header.architecture, header.metadata)
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    weights: dict[int, int] = {}
    ends = {"input": 0, "output": 0}
    has_output, table = False, 0
    for tensor in header.tensors:
        match = _BLOCK.match(tensor.name)
        if match and int(match[1]) < MAX_BLOCKS:
            layer = int(match[1])
            shapes.setdefault(layer, {})[_short(match[2])] = tensor.dimensions
            weights[layer] = weights.get(layer, 0) + tensor.size
            continue
        ends["input" if tensor.name.startswith(_INPUT) else "output"] += tensor.size
        has_output = has_output or tensor.name == "output.weight"
        table = tensor.size if tensor.name == "token_embd.weight" else table
    blocks = _blocks(numbers, shapes, weights)
    cached = header.architecture not in _UNCACHED
    model = Model(numbers.of("embedding_length"), blocks, cached, header.architecture in STEADY)
    return Parts(model, ends["input"], ends["output"], 0 if has_output or not cached else table)


def _short(name: str) -> str:
    return name.removesuffix(".weight").replace("ssm_dt.bias", "ssm_dt")


def _blocks(
    numbers: Numbers, shapes: Mapping[int, Mapping[str, tuple[int, ...]]], weights: Mapping[int, int]
) -> tuple[Block, ...]:
    count = max(shapes, default=-1) + 1
    caching = caching_layers(numbers)
    found = []
    for layer in range(count):
        window = window_of(numbers, layer)
        made = block(numbers, layer, weights.get(layer, 0), shapes.get(layer, {}), window)
        found.append(made if layer < caching else made.without_cache())
    return tuple(found)


def memory_facts(header: Header) -> dict[str, Any]:
    """The `memory` object of a pull's details (docs/memory.md); all numbers are whole."""
    found = parts_of(header)
    model = found.model
    return {
        "input": found.input,
        "output": found.output,
        "blocks": sum(one.weights for one in model.blocks),
        "caches": _caches(model),
        "state": sum(one.state for one in model.blocks) * _FLOAT,
        "heads": max((one.attention.heads for one in model.blocks if one.attention), default=0),
        "step": _step(model),
        "encoder": not model.cached,
        "width": _output_width(header, model),
        "last": model.cached and _pools_last(header),
    }


def _output_width(header: Header, model: Model) -> int:
    """Numbers of a vector."""
    wider = header.metadata.get(f"{header.architecture}.embedding_length_out")
    return wider if isinstance(wider, int) and wider > 0 else model.width


def _pools_last(header: Header) -> bool:
    """Whether a vector is that of the last token, which sees all others (`engine.llama_embed` decides the same)."""
    pooling = header.metadata.get(f"{header.architecture}.pooling_type")
    causal = header.metadata.get(f"{header.architecture}.attention.causal")
    return causal is not False and pooling in (None, 0, 3, 4) and header.architecture not in _TWO_PARTS


def _caches(model: Model) -> list[dict[str, int]]:
    """Elements of keys and values for each cell, of all layers with the same window together."""
    if not model.cached:
        return []
    caching = [one for one in model.blocks if one.cached[0]]
    most = max((one.cached[1] for one in caching), default=0)
    found = []
    for window in sorted({one.window for one in caching}):
        same = [one for one in caching if one.window == window]
        values = [one.cached[1] for one in same]
        # Without flash attention llama.cpp makes the values of all layers as wide as the widest.
        padded = most * sum(1 for value in values if value)
        entry = {"window": window, "key": sum(one.cached[0] for one in same), "value": sum(values)}
        found.append(entry | ({"padded": padded} if padded != sum(values) else {}))
    return found


def _step(model: Model) -> dict[str, int]:
    """Bytes of a step for each token and sequence. `plain`, `scored` and `cell` count without flash attention: a peak
    elsewhere than at the scores, the bytes beside them, and what the scores take for each cell.
    """
    one = step_bytes(model, sequences=1, cells=None)
    several = step_bytes(model, sequences=_SEVERAL, cells=None)
    return {
        "token": _each(one, TOKENS),
        "sequence": max(several - one, 0) // (_SEVERAL - 1),
        "plain": _each(step_bytes(model, sequences=1, cells=0), TOKENS),
        **_scored(model),
    }


def _scored(model: Model) -> dict[str, int]:
    attentions = [one.attention for one in model.blocks if one.attention]
    if not attentions:
        return {"scored": 0, "cell": 0}
    # An encoder's cells are the tokens of the step.
    cells = _MANY_CELLS
    heads, latent = max(one.heads for one in attentions), max(one.latent for one in attentions)
    peak = step_bytes(model, sequences=1, cells=cells)
    cell = 2 * latent
    return {"scored": max(_each(peak - cell * cells, TOKENS) - _FLOAT * heads * cells, 0), "cell": cell}


def _each(size: int, count: int) -> int:
    return -(-size // count)
