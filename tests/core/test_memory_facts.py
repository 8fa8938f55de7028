"""Facts about memory from a header: windows, caches, states, places of tensors, and headers that lie."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paddock_runner.core.engine_record import EngineRecord
from paddock_runner.core.memory_arena import Arena
from paddock_runner.core.memory_blocks import Numbers
from paddock_runner.core.memory_facts import memory_facts, parts_of
from paddock_runner.core.memory_split import split
from paddock_runner.core.memory_windows import caching_layers, window_of


@dataclass
class Tensor:
    name: str
    dimensions: tuple[int, ...]
    size: int = 1000


@dataclass
class Header:
    architecture: str
    metadata: dict[str, Any]
    tensors: list[Tensor] = field(default_factory=list)


def windows(architecture: str, layers: int = 8, **values: Any) -> list[int]:
    numbers = Numbers(architecture, {f"{architecture}.{name}": value for name, value in values.items()})
    return [window_of(numbers, layer) for layer in range(layers)]


@pytest.mark.parametrize(
    ("architecture", "values", "expected"),
    [
        ("llama", {"attention.sliding_window": 4096}, [0] * 8),
        ("phi3", {"attention.sliding_window": 2047}, [0] * 8),
        ("gemma3", {"attention.sliding_window": 512}, [512] * 5 + [0, 512, 512]),
        ("gemma3", {}, [0] * 8),
        ("gemma2", {}, [4096, 0] * 4),
        ("gpt-oss", {"attention.sliding_window": 128}, [128, 0] * 4),
        ("cohere2moe", {"attention.sliding_window": 64}, [0, 64, 64, 64] * 2),
        ("gemma3", {"attention.sliding_window": 9, "attention.sliding_window_pattern": 2}, [9, 0] * 4),
        ("gemma4", {"attention.sliding_window": 9, "attention.sliding_window_pattern": (True, False) * 4}, [9, 0] * 4),
        ("llama4", {}, [8192] * 3 + [0] + [8192] * 3 + [0]),
        ("exaone4", {"block_count": 30, "attention.sliding_window": 7}, [0] * 8),
        ("exaone4", {"block_count": 64}, [4096, 4096, 4096, 0] * 2),
        ("lfm2", {"attention.sliding_window": 7}, [7] * 8),
    ],
)
def test_windows(architecture: str, values: dict[str, Any], expected: list[int]) -> None:
    assert windows(architecture, **values) == expected


def test_layers_without_a_cache_of_their_own() -> None:
    assert caching_layers(Numbers("gemma3n", {"gemma3n.block_count": 30})) == 20
    shared = {"gemma4.block_count": 30, "gemma4.attention.shared_kv_layers": 12}
    assert caching_layers(Numbers("gemma4", shared)) == 18
    assert caching_layers(Numbers("glm4moe", {"glm4moe.block_count": 30, "glm4moe.nextn_predict_layers": 1})) == 29


LLAMA = {
    "llama.block_count": 2, "llama.embedding_length": 64, "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": (2, 1),
}  # fmt: skip
ATTENTION = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")


def header(**changes: Any) -> Header:
    tensors = [Tensor("token_embd.weight", (64, 100), 5000), Tensor("output_norm.weight", (64,), 256)]
    tensors += [Tensor(f"blk.{layer}.{name}.weight", (64, 64)) for layer in range(2) for name in ATTENTION]
    return Header("llama", {**LLAMA, **changes}, tensors)


def test_layers_that_differ() -> None:
    facts = memory_facts(header())
    assert facts["caches"] == [{"window": 0, "key": 48, "value": 48, "padded": 64}]
    assert (facts["input"], facts["output"], facts["blocks"], facts["heads"]) == (5000, 256, 10_000, 4)
    assert parts_of(header()).tied == 5000, "no output.weight: a GPU has a copy of the table"


def test_a_recurrence_whose_steps_are_not_modelled_still_has_its_state() -> None:
    values = {"rwkv6.block_count": 1, "rwkv6.embedding_length": 64, "rwkv6.wkv.head_size": 32}
    found = memory_facts(Header("rwkv6", values, [Tensor("blk.0.time_mix_key.weight", (64, 64))]))
    assert (found["state"], found["caches"]) == (4 * 64 * (2 + 32), [])


SPLIT = EngineRecord.from_config({
    "mode": "generate", "contextLength": 256, "slots": 1, "cells": 256, "sequences": 1, "batch": 64,
    "prefixBytes": 0, "typeK": "f16", "typeV": "f16",
    "flashAttention": "auto", "mmap": True, "mlock": False, "gpuLayers": -1, "threads": 0,
})  # fmt: skip


def on_gpus(layers: int, *shares: float) -> list[tuple[int, int]]:
    record = replace(SPLIT, gpu_layers=layers)
    found = split(parts_of(header()), memory_facts(header()), 100, record, shares)
    return [(one["weights"], one["kv"]) for one in found]


def test_split_over_gpus() -> None:
    first, second, out = (5000, 256 * 64 * 2), (5000, 256 * 32 * 2), 5256
    assert on_gpus(-1) == []
    assert on_gpus(0, 1) == [(0, 0)]
    assert on_gpus(-1, 1) == [(10_000 + out, first[1] + second[1])]
    assert on_gpus(-1, 1, 1) == [(10_000, first[1] + second[1]), (out, 0)]
    assert on_gpus(2, 1, 1) == [second, (out, 0)]
    assert on_gpus(-1, 1, 1, 1) == [first, second, (out, 0)]
    for shares in ((-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="positive"):
            on_gpus(-1, *shares)


def test_best_fit_among_the_holes() -> None:
    arena = Arena()
    spans = [arena.new(size) for size in (100, 64, 32, 96, 32)]
    assert (arena.peak, spans[1].offset) == (128 + 64 + 32 + 96 + 32, 128)
    arena.free(spans[1], spans[3])
    assert arena.new(64).offset == 128, "the smallest hole that is large enough"
    arena.free(spans[2])
    assert arena.new(128).offset == 192, "two holes that touch are one"
    assert arena.new(1).offset == 352


@example({"block_count": 0, "embedding_length": 1}, "llama", ["blk.0.shortconv.conv.weight"])
@given(
    st.dictionaries(
        st.sampled_from(
            ["block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "ssm.state_size",
             "ssm.inner_size", "ssm.group_count", "expert_count", "expert_used_count", "attention.key_length",
             "attention.sliding_window_pattern", "attention.kv_lora_rank", "kda.head_dim", "shortconv.l_cache"]
        ),
        st.integers(-(1 << 63), 1 << 64) | st.booleans() | st.text(max_size=3) | st.tuples(st.integers(-5, 1 << 40)),
    ),
    st.sampled_from(["llama", "gemma3", "lfm2", "mamba2", "qwen3next", "deepseek2", "bert"]),
    st.lists(
        st.sampled_from(
            ["blk.0.attn_output.weight", "blk.0.attn_norm.weight", "blk.3.ssm_conv1d.weight", "blk.0.attn_qkv.weight",
             "blk.1.ffn_up.weight", "blk.1.ffn_up_exps.weight", "blk.0.shortconv.conv.weight", "blk.9999.x",
             "blk.0.attn_k_b.weight", "blk.0.attn_kv_a_mqa.weight", "token_embd.weight"]
        ),
        max_size=6,
    ),
)  # fmt: skip
def test_no_header_breaks_the_facts(values: dict[str, Any], architecture: str, names: list[str]) -> None:
    metadata = {f"{architecture}.{name}": value for name, value in values.items()}
    found = memory_facts(Header(architecture, metadata, [Tensor(name, (7, 9), 63) for name in names]))
    numbers = [found["state"], found["heads"], *found["step"].values()]
    assert all(type(number) is int and number >= 0 for number in numbers)
