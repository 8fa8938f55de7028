"""The hyperparameters of a GGUF model: ranges of what llama.cpp asserts on, divides by or allocates by.

Called by `gguf.read_gguf`. The rules of single architectures are tables of `gguf_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from paddock_runner.store import gguf_rules as rules
from paddock_runner.store.errors import InvalidGGUFError
from paddock_runner.store.gguf_reader import Entry
from paddock_runner.store.gguf_tables import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32

MAX_LAYERS = 512
MAX_EXPERTS = 1024
MAX_WIDTH = 1 << 20
MAX_HEADS = 65_536
MAX_CONTEXT = (1 << 31) - 1
MAX_VOCABULARY = 2 << 20


@dataclass(frozen=True, slots=True)
class Parameters:
    """The entries of one model with the names of its architecture."""

    entries: dict[str, Entry]
    architecture: str

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def entry(self, name: str) -> Entry | None:
        return self.entries.get(self.key(name))

    def number(self, name: str, low: int, high: int, required: bool = False) -> int | None:
        """An unsigned 32-bit value within low…high, None when absent and not required."""
        return number(self.entries, self.key(name), low, high, required)

    def each(self, name: str, low: int, high: int, layers: int) -> tuple[int, ...]:
        """One number per layer from a scalar or an array (whose elements may be 0); empty when absent."""
        entry = self.entry(name)
        if entry is None:
            return ()
        if entry.value_type != ARRAY:
            return (self.number(name, low, high) or 0,) * layers
        values = entry.value if isinstance(entry.value, tuple) else ()
        if entry.item_type not in (UINT32, INT32) or len(values) != layers:
            found = f"{entry.length} elements of type {entry.item_type}"
            raise InvalidGGUFError(
                self.key(name), f"must be a number or an array of {layers} numbers, one per layer; it has {found}"
            )
        for value in values:
            if not isinstance(value, int) or not 0 <= value <= high:
                raise InvalidGGUFError(self.key(name), f"the element {value} is out of range, allowed are 0 to {high}")
        return tuple(int(value) for value in values)

    def plain(self, name: str) -> int | None:
        """The whole number stored under `name`, of any width; None for anything else."""
        entry = self.entry(name)
        return entry.value if entry is not None and type(entry.value) is int else None

    def refuse(self, name: str, problem: str) -> InvalidGGUFError:
        return InvalidGGUFError(self.key(name), problem)


def number(entries: dict[str, Entry], key: str, low: int, high: int, required: bool = False) -> int | None:
    """An unsigned 32-bit value within low…high, None when absent and not required. Raises InvalidGGUFError."""
    entry = entries.get(key)
    if entry is None:
        if required:
            raise InvalidGGUFError(key, "is missing")
        return None
    if entry.value_type != UINT32 or not isinstance(entry.value, int):
        raise InvalidGGUFError(key, "must be an unsigned 32-bit number")
    if not low <= entry.value <= high:
        raise InvalidGGUFError(key, f"{entry.value} is out of range, allowed are {low} to {high}")
    return entry.value


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
    head = _check_heads(own, layers, width, rows)
    _check_rotation(own, head)
    _check_experts(own, layers)
    _check_floats(own)
    _check_rules(own, width)


def _check_heads(own: Parameters, layers: int, width: int, rows: Mapping[str, int]) -> int:
    """Counts and sizes of the attention heads; returns the length of a key (0 without attention)."""
    headless = own.architecture in rules.HEADLESS
    heads = own.each("attention.head_count", 0 if headless else 1, min(MAX_HEADS, width), layers)
    if not headless and (not heads or not heads[0]):
        raise own.refuse("attention.head_count", "is missing or 0 for the first layer; it must be at least 1")
    kv_heads = own.each("attention.head_count_kv", 0, MAX_HEADS, layers)
    for query, key in zip(heads, kv_heads, strict=False):
        if query and key and query % key:
            raise own.refuse("attention.head_count_kv", f"{key} does not divide head_count {query}")
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


def _check_rules(own: Parameters, width: int) -> None:
    for rule in rules.RANGES:
        if rule.architectures and own.architecture not in rule.architectures:
            continue
        value = own.plain(rule.name)
        if value is None and rule.required:
            raise own.refuse(rule.name, "is missing or not a number")
        if value is not None and not rule.low <= value <= rule.high:
            raise own.refuse(rule.name, f"{value} is out of range, allowed are {rule.low} to {rule.high}")
    for architectures, dividend, divisor in rules.DIVISIONS:
        if own.architecture in architectures:
            _check_division(own, dividend, divisor)
    _check_special(own, width)


def _check_division(own: Parameters, dividend: str, divisor: str) -> None:
    whole, part = own.plain(dividend), own.plain(divisor)
    if part == 0 or (whole is not None and part is not None and whole % part):
        raise own.refuse(divisor, f"{part} does not divide {dividend} {whole}")


def _check_special(own: Parameters, width: int) -> None:
    name = own.architecture
    if name in rules.TWICE_WIDE and own.plain("ssm.inner_size") not in (None, 2 * width):
        raise own.refuse("ssm.inner_size", f"{own.plain('ssm.inner_size')} must be twice embedding_length {width}")
    if name == "gemma-embedding":
        for feature in ("dense_2_feat_in", "dense_3_feat_out"):
            if own.plain(feature) not in (None, 0, width):
                raise own.refuse(feature, f"{own.plain(feature)} must equal embedding_length {width}")
    if name == "hrm_text":
        _check_cycles(own)
    if name == "nanbeige" and (own.plain("num_loops") or 1) * (own.plain("block_count") or 1) > MAX_LAYERS:
        raise own.refuse("num_loops", f"{own.plain('num_loops')} × block_count is over the limit of {MAX_LAYERS}")
    if name == "wavtokenizer-dec":
        _check_convolutions(own)
    if name == "bailingmoe3":
        _check_gates(own)
    nope = (own.plain("attention.key_length_mla") or 0) - (own.plain("rope.dimension_count") or 0)
    if name in rules.PARTLY_ROTATED and own.plain("attention.key_length_mla") and nope < 1:
        raise own.refuse("attention.key_length_mla", "must be more than rope.dimension_count")


def _check_cycles(own: Parameters) -> None:
    stack, high, low = (own.plain(f"hrm.{name}") or 0 for name in ("layers_per_stack", "h_cycles", "l_cycles"))
    blocks = own.plain("block_count")
    if stack * high * (low + 1) - (own.plain("nextn_predict_layers") or 0) != blocks:
        raise own.refuse("block_count", f"{blocks} must be {stack} × {high} × ({low} + 1), as its hrm.* keys say")


def _check_convolutions(own: Parameters) -> None:
    layers = own.plain("block_count") or 0
    own.number("posnet.block_count", 0, min(layers, 6))
    own.number("convnext.block_count", 0, layers)
    if own.plain("posnet.embedding_length") != own.plain("convnext.embedding_length"):
        raise own.refuse("posnet.embedding_length", "must equal convnext.embedding_length")


def _check_gates(own: Parameters) -> None:
    safe, bound = own.entry("kda.safe_gate"), own.entry("kda.gate_lower_bound")
    if safe is None or safe.value_type != BOOL or not safe.value:
        raise own.refuse("kda.safe_gate", "must be true")
    if bound is None or not isinstance(bound.value, float) or not bound.value < 0:
        raise own.refuse("kda.gate_lower_bound", "must be below 0")
