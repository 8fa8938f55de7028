"""The hyperparameters of a GGUF model: ranges of what llama.cpp asserts on, divides by or allocates by.

Called by `gguf.read_gguf`. The rules of single architectures are in `gguf_architectures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from paddock_runner.store import gguf_rules as rules
from paddock_runner.store.gguf_architectures import check_rules
from paddock_runner.store.gguf_reader import Entry
from paddock_runner.store.gguf_tables import FLOAT32, STRING
from paddock_runner.store.gguf_values import MAX_LAYERS, Parameters

MAX_EXPERTS = 1024
MAX_WIDTH = 1 << 20
MAX_HEADS = 65_536
MAX_CONTEXT = (1 << 31) - 1
MAX_VOCABULARY = 2 << 20


def check_parameters(entries: dict[str, Entry], architecture: str, rows: Mapping[str, int]) -> None:
    """Judge all hyperparameters of a model; `rows` are the second dimensions of its matrices by tensor name.

    Raises InvalidGGUFError, which names the key, its value and the limit.
    """
    own = Parameters(entries, architecture)
    layers = own.number("block_count", 1, MAX_LAYERS, required=True) or 0
    own.number("context_length", 1, MAX_CONTEXT, required=True)
    width = own.number("embedding_length", 1, MAX_WIDTH, required=True) or 0
    own.number("embedding_length_out", 0, MAX_WIDTH)
    own.number("nextn_predict_layers", 0, layers - 1)
    own.number("pooling_type", 0, 4)
    own.number("classifier.pooling_type", 0, 4)
    own.number("vocab_size", 0, MAX_VOCABULARY)
    own.each("feed_forward_length", 0, 1 << 24, layers)
    heads, kv_heads = _check_head_counts(own, layers, width)
    head = _check_head_lengths(own, heads, kv_heads, width, rows)
    _check_rotation(own, head)
    _check_experts(own, layers)
    _check_floats(own)
    check_rules(own, width, layers, kv_heads or heads)


def _check_head_counts(own: Parameters, layers: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The attention heads of each layer, and those of its keys and values."""
    headless = own.architecture in rules.HEADLESS
    heads = own.each("attention.head_count", 0 if headless else 1, min(MAX_HEADS, width), layers)
    if not headless and (not heads or not heads[0]):
        raise own.refuse("attention.head_count", "is missing or 0 for the first layer; it must be at least 1")
    kv_heads = own.each("attention.head_count_kv", 0, MAX_HEADS, layers)
    for query, key in zip(heads, kv_heads, strict=False):
        if query and key and query % key:
            raise own.refuse("attention.head_count_kv", f"{key} does not divide head_count {query}")
    return heads, kv_heads


def _check_head_lengths(
    own: Parameters, heads: tuple[int, ...], kv_heads: tuple[int, ...], width: int, rows: Mapping[str, int]
) -> int:
    """Sizes of the attention heads; returns the length of a key (0 without attention)."""
    per_head = width // heads[0] if heads and heads[0] else 0
    key_length = own.number("attention.key_length", 1, MAX_WIDTH) or per_head
    value_length = own.number("attention.value_length", 1, MAX_WIDTH) or per_head
    if key_length != value_length and own.architecture in rules.EQUAL_HEADS:
        raise own.refuse("attention.value_length", f"{value_length} must equal the key length {key_length}")
    if len(set(kv_heads)) > 1:
        _check_key_rows(own, kv_heads, key_length, rows)
    return key_length


def _check_key_rows(own: Parameters, kv_heads: tuple[int, ...], key_length: int, rows: Mapping[str, int]) -> None:
    """Where layers differ, each one's key matrix must have its number of heads; the graph asserts it."""
    lengths = (key_length, own.plain("attention.key_length_swa") or key_length)
    for layer, count in enumerate(kv_heads):
        found = rows.get(f"blk.{layer}.attn_k.weight")
        if count and found is not None and found not in [count * length for length in lengths]:
            words = f"{count} of layer {layer} does not fit the {found} rows of its attn_k.weight"
            raise own.refuse("attention.head_count_kv", words)


def _check_rotation(own: Parameters, head: int) -> None:
    rotated = own.number("rope.dimension_count", 0, head or MAX_WIDTH)
    own.number("rope.dimension_count_swa", 0, MAX_WIDTH)
    for name in ("rope.dimension_count", "rope.dimension_count_swa"):
        value = own.plain(name)
        if value is not None and value % 2:
            raise own.refuse(name, f"{value} is odd; pairs of values are rotated")
    if own.architecture in rules.FULL_ROTATION:
        if rotated is not None and rotated != head:
            raise own.refuse("rope.dimension_count", f"{rotated} must equal the head's length {head}")
        if head % 2:
            raise own.refuse("attention.key_length", f"{head} is odd; pairs of values are rotated")
    _check_scaling(own)


def _check_scaling(own: Parameters) -> None:
    scaling = own.entry("rope.scaling.type")
    if scaling is not None and (scaling.value_type != STRING or scaling.value not in rules.ROPE_SCALINGS):
        allowed = ", ".join(sorted(rules.ROPE_SCALINGS))
        raise own.refuse("rope.scaling.type", f"{str(scaling.value)[:64]!r} is unknown, allowed are {allowed}")
    sections = own.entry("rope.dimension_sections")
    if sections is None or own.architecture not in rules.SECTIONED | rules.MAYBE_SECTIONED:
        return
    stored = sections.value if isinstance(sections.value, tuple) else ()
    numbers = [item for item in stored if type(item) is int]
    if len(numbers) != 4 or any(not 0 <= item <= MAX_WIDTH for item in numbers):
        raise own.refuse("rope.dimension_sections", f"must be four numbers from 0 to {MAX_WIDTH}")
    if own.architecture in rules.SECTIONED and not any(numbers[:3]):
        raise own.refuse("rope.dimension_sections", "one of the first three numbers must be above 0")


def _check_experts(own: Parameters, layers: int) -> None:
    experts = own.number("expert_count", 0, MAX_EXPERTS) or 0
    used = own.each("expert_used_count", 0, MAX_EXPERTS, layers)
    groups = own.number("expert_group_count", 0, MAX_EXPERTS) or 0
    if experts <= 1 and own.architecture in rules.ONE_EXPERT_IS_NONE:
        experts, used = 0, ()
    most = max(used, default=0)
    if most > experts or (experts and not most):
        raise own.refuse("expert_used_count", f"{most} does not fit expert_count {experts}")
    if experts and not used[0] and own.architecture not in rules.EXPERTS_PER_LAYER:
        raise own.refuse("expert_used_count", "is 0 for the first layer")
    if groups and groups >= max(experts, 1):
        raise own.refuse("expert_group_count", f"{groups} must be below expert_count {experts}")
    if groups > 1:
        _check_groups(own, experts, groups)


def _check_groups(own: Parameters, experts: int, groups: int) -> None:
    if experts % groups:
        raise own.refuse("expert_group_count", f"{groups} does not divide expert_count {experts}")
    own.number("expert_group_used_count", 1, groups - 1, required=True)


def _check_floats(own: Parameters) -> None:
    for name in rules.EPSILONS + rules.FREQUENCIES:
        entry = own.entry(name)
        if entry is None:
            continue
        value = entry.value
        if entry.value_type != FLOAT32 or not isinstance(value, float):
            raise own.refuse(name, "must be a 32-bit float")
        if not math.isfinite(value) or value < 0:
            raise own.refuse(name, f"{value} must be finite and not negative")
