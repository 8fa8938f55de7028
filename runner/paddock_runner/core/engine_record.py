"""The load-time numbers of one engine, all of them: the record that the planner writes and the engine obeys.

Built by `commands/serve` from the `engine` object of the serve configuration, sent to the engine child in the `load`
frame, read by `engine.llama` and `core.scheduler`. The engine has no defaults of its own, so every field is required.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
FlashAttention = Literal["auto", "on", "off"]
Mode = Literal["generate", "embed", "rerank"]

_T = TypeVar("_T")

MAX_TOKENS = 1 << 22  # far above any context length in use, far below what overflows llama.cpp's 32-bit positions
MAX_BYTES = 1 << 50
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ


class EngineRecordError(ValueError):
    """One field of the record is wrong. `field` is its name in the serve configuration."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"engine.{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """`mode` says what the model is for. `cells` is the size of the unified KV cache in tokens, `sequences` llama.cpp's
    n_seq_max: one for each of the `slots`, the others keep prefixes for later requests.

    `batch` is the most tokens of one step, `context_length` of one sequence; `prefix_bytes` of host memory hold
    prefixes that left the cache; `threads` 0 means "what the CPU quota allows"; `gpu_layers` < 0 means all.
    """

    mode: Mode
    context_length: int
    slots: int
    cells: int
    sequences: int
    batch: int
    prefix_bytes: int
    type_k: CacheType
    type_v: CacheType
    flash_attention: FlashAttention
    mmap: bool
    mlock: bool
    gpu_layers: int
    threads: int

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> EngineRecord:
        """Read the `engine` object of a serve configuration. Raises EngineRecordError naming field, limit and fix."""
        unknown = sorted(set(config) - set(_CONFIG_NAMES))
        if unknown:
            raise EngineRecordError(unknown[0], f"is not a known field; known fields: {', '.join(_CONFIG_NAMES)}")
        record = cls(
            mode=_choice(config, "mode", get_args(Mode)),
            context_length=_integer(config, "contextLength", 1, MAX_TOKENS),
            slots=_integer(config, "slots", 1, MAX_SEQUENCES),
            cells=_integer(config, "cells", 1, MAX_TOKENS),
            sequences=_integer(config, "sequences", 1, MAX_SEQUENCES),
            batch=_integer(config, "batch", 1, 1 << 16),
            prefix_bytes=_integer(config, "prefixBytes", 0, MAX_BYTES),
            type_k=_choice(config, "typeK", get_args(CacheType)),
            type_v=_choice(config, "typeV", get_args(CacheType)),
            flash_attention=_choice(config, "flashAttention", get_args(FlashAttention)),
            mmap=_boolean(config, "mmap"),
            mlock=_boolean(config, "mlock"),
            gpu_layers=_integer(config, "gpuLayers", -1, 10_000),
            threads=_integer(config, "threads", 0, 1024),
        )
        _check_together(record)
        return record


_CONFIG_NAMES = (
    "mode",
    "contextLength",
    "slots",
    "cells",
    "sequences",
    "batch",
    "prefixBytes",
    "typeK",
    "typeV",
    "flashAttention",
    "mmap",
    "mlock",
    "gpuLayers",
    "threads",
)


def _check_together(record: EngineRecord) -> None:
    if record.sequences < record.slots:
        raise EngineRecordError("sequences", f"is {record.sequences}, but must be at least slots ({record.slots})")
    if record.cells < record.context_length:
        raise EngineRecordError("cells", f"is {record.cells}, but must be ≥ contextLength ({record.context_length})")
    if record.batch < record.sequences:
        raise EngineRecordError("batch", f"is {record.batch}, but must be at least sequences ({record.sequences})")


def _integer(config: Mapping[str, object], name: str, low: int, high: int) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise EngineRecordError(name, "must be an integer")
    if not low <= value <= high:
        raise EngineRecordError(name, f"is {value}, but must be between {low} and {high}")
    return value


def _boolean(config: Mapping[str, object], name: str) -> bool:
    value = config.get(name)
    if not isinstance(value, bool):
        raise EngineRecordError(name, "must be true or false")
    return value


def _choice(config: Mapping[str, object], name: str, choices: tuple[_T, ...]) -> _T:
    value = config.get(name)
    for choice in choices:
        if value == choice:
            return choice
    raise EngineRecordError(name, f"must be one of {', '.join(map(str, choices))}")
