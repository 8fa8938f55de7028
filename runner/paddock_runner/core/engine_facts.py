"""What an engine tells about itself: its vocabulary, its memory, each step's numbers.

Sent by the engine child (`engine.protocol`), shown by the HTTP front (templates, `/api/show`, `/metrics`, `/readyz`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VocabFacts:
    """Known after the first load phase and kept while the weights are unloaded. Ids are -1 where the model has none."""

    size: int
    bos: int
    eos: int
    bos_text: str
    eos_text: str
    add_bos: bool
    chat_template: str | None
    context_train: int
    description: str


@dataclass(frozen=True, slots=True)
class MemoryNumbers:
    """Bytes: `weights` of all tensors, llama.cpp's `kv`, `compute` and `output` buffers, `resident` of the process."""

    weights: int
    kv: int
    compute: int
    output: int
    resident: int


@dataclass(frozen=True, slots=True)
class StepStats:
    """Sequences and tokens of one step; `milliseconds` is its wall time.

    KV cells after it: `used_cells` by sequences that run (`shared_cells` of them by several), `retained_cells` only
    for the prefixes they keep, `saved_cells` copied to host memory. `expected_seconds`: how long a request that comes
    now would wait for a slot. `mask_milliseconds` of the step were spent on what constraints allow.
    `threads` computed it.
    """

    running: int
    waiting: int
    prefill_tokens: int
    decode_tokens: int
    milliseconds: float
    used_cells: int
    retained_cells: int
    shared_cells: int
    expected_seconds: float = 0.0
    saved_cells: int = 0
    mask_milliseconds: float = 0.0
    threads: int = 0
