"""The rules of single architectures for the hyperparameters of a GGUF model, mostly the tables of `gguf_rules`.

Called by `gguf_parameters`.
"""

from __future__ import annotations

from collections.abc import Callable

from paddock_runner.store import gguf_rules as rules
from paddock_runner.store.gguf_tables import BOOL
from paddock_runner.store.gguf_values import MAX_LAYERS, Parameters


def check_rules(own: Parameters, width: int, layers: int, kv_heads: tuple[int, ...]) -> None:
    """Judge what only some architectures ask; `kv_heads` are those of each layer. Raises InvalidGGUFError."""
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
    _check_mixture(own, layers, kv_heads)


def _check_division(own: Parameters, dividend: str, divisor: str) -> None:
    whole, part = own.plain(dividend), own.plain(divisor)
    if part == 0 or (whole is not None and part is not None and whole % part):
        raise own.refuse(divisor, f"{part} does not divide {dividend} {whole}")


def _check_special(own: Parameters, width: int) -> None:
    name = own.architecture
    if name in rules.TWICE_WIDE and own.plain("ssm.inner_size") not in (None, 2 * width):
        raise own.refuse("ssm.inner_size", f"{own.plain('ssm.inner_size')} must be twice embedding_length {width}")
    if name in _SPECIAL:
        _SPECIAL[name](own, width)


def _check_ratios(own: Parameters, width: int) -> None:
    entry = own.entry("attention.compress_ratios")
    if entry is not None and (entry.length or 0) > MAX_LAYERS:
        raise own.refuse("attention.compress_ratios", f"has {entry.length} elements, the limit is {MAX_LAYERS}")


def _check_features(own: Parameters, width: int) -> None:
    for feature in ("dense_2_feat_in", "dense_3_feat_out"):
        if own.plain(feature) not in (None, 0, width):
            raise own.refuse(feature, f"{own.plain(feature)} must equal embedding_length {width}")


def _check_loops(own: Parameters, width: int) -> None:
    loops, blocks = own.plain("num_loops") or 1, own.plain("block_count") or 1
    if loops * blocks > MAX_LAYERS:
        raise own.refuse("num_loops", f"{loops} × {blocks} blocks are over the limit of {MAX_LAYERS} layers")


def _check_partly_rotated(own: Parameters, width: int) -> None:
    """Compressed keys have a part that is not rotated; their two lengths come together or not at all."""
    lengths = [own.plain(f"attention.{kind}_length_mla") or 0 for kind in ("key", "value")]
    if own.architecture == "hy_v4" and not all(lengths):
        raise own.refuse("attention.key_length_mla", "and value_length_mla must be there and above 0")
    heads = own.entry("attention.head_count")
    first = heads.value[0] if heads and isinstance(heads.value, tuple) else own.plain("attention.head_count")
    per_head = own.plain("attention.key_length") or width // (int(first or 0) or 1)
    whole = lengths[0] if all(lengths) else per_head
    rotated = own.plain("rope.dimension_count")
    rotated = per_head if rotated is None else rotated
    if whole <= rotated:
        raise own.refuse("attention.key_length_mla", f"{whole} must be more than rope.dimension_count {rotated}")


def _check_mixture(own: Parameters, layers: int, kv_heads: tuple[int, ...]) -> None:
    """Layers with attention and layers with a state are both there; the inputs of a missing kind have no memory."""
    if own.architecture in rules.MIXED_BY_HEADS and not 0 < kv_heads.count(0) < layers:
        raise own.refuse(
            "attention.head_count_kv",
            f"must be 0 for some of the {layers} layers (those with a state), and not for all",
        )
    if own.architecture not in rules.MIXED_BY_INTERVAL:
        return
    listed = own.entry("attention.recurrent_layers")
    interval = own.plain("full_attention_interval")
    if listed is not None and isinstance(listed.value, tuple):
        if all(listed.value) or not any(listed.value):
            raise own.refuse("attention.recurrent_layers", "must name some layers, and not all")
    elif interval is not None and not 2 <= interval <= layers:
        raise own.refuse("full_attention_interval", f"{interval} is out of range, allowed are 2 to {layers}")


def _check_cycles(own: Parameters, width: int) -> None:
    stack, high, low = (own.plain(f"hrm.{name}") or 0 for name in ("layers_per_stack", "h_cycles", "l_cycles"))
    blocks = own.plain("block_count")
    if stack * high * (low + 1) + (own.plain("nextn_predict_layers") or 0) != blocks:
        raise own.refuse("block_count", f"{blocks} must be {stack} × {high} × ({low} + 1), as its hrm.* keys say")


def _check_convolutions(own: Parameters, width: int) -> None:
    layers = own.plain("block_count") or 0
    own.number("posnet.block_count", 0, min(layers, 6))
    own.number("convnext.block_count", 0, layers)
    if own.plain("posnet.embedding_length") != own.plain("convnext.embedding_length"):
        raise own.refuse("posnet.embedding_length", "must equal convnext.embedding_length")


def _check_gates(own: Parameters, width: int) -> None:
    safe, bound = own.entry("kda.safe_gate"), own.entry("kda.gate_lower_bound")
    if safe is None or safe.value_type != BOOL or not safe.value:
        raise own.refuse("kda.safe_gate", "must be true")
    if bound is None or not isinstance(bound.value, float) or not bound.value < 0:
        raise own.refuse("kda.gate_lower_bound", "must be below 0")


_SPECIAL: dict[str, Callable[[Parameters, int], None]] = {
    "bailingmoe3": _check_gates,
    "deepseek2": _check_partly_rotated,
    "deepseek4": _check_ratios,
    "gemma-embedding": _check_features,
    "hrm_text": _check_cycles,
    "hy_v4": _check_partly_rotated,
    "mistral4": _check_partly_rotated,
    "nanbeige": _check_loops,
    "wavtokenizer-dec": _check_convolutions,
}
