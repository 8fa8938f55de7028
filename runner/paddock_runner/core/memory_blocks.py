"""What the blocks of a model are made of: the numbers of attention, recurrence and feed-forward, from a GGUF header.

Used by `memory_facts` and `memory_graph`. Tensor shapes say what is there; hyperparameters say how heads share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

UNTURNED = frozenset({"bert", "jina-bert-v2", "gpt2", "starcoder", "mpt", "bloom", "refact", "jais", "gptj"})
"""Architectures whose queries and keys are used as they are: no rotation, no norm."""

MAX_NUMBER = 1 << 24
STEADY = frozenset({"lfm2", "lfm2moe", "jamba"})
"""Architectures that add each part to the stream; others add the stream to the part, which takes another place."""

Shapes = Mapping[str, tuple[int, ...]]
"""Names of tensors without `blk.N.` and `.weight`, with dimensions in the order of the file."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Widths in elements for each token. `latent`, `rope` and `query_rank` are of compressed keys (MLA), 0 without."""

    heads: int
    query: int
    key: int
    value: int
    value_head: int
    normed: bool = True
    turned: bool = True
    fused: bool = False
    gated: int = 0
    latent: int = 0
    rope: int = 0
    query_rank: int = 0


@dataclass(frozen=True, slots=True)
class Feed:
    """A feed-forward network of `hidden` elements; `scored`: its result is weighed by a score for each token."""

    hidden: int
    gated: bool
    scored: bool = False


@dataclass(frozen=True, slots=True)
class Experts:
    """`used` of `count` networks of `hidden` elements each."""

    count: int
    used: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Recurrent:
    """`kind` is scan, convolution or delta. `convolved` and `state` are elements kept for each sequence."""

    kind: str
    projected: int
    channels: int
    convolved: int
    inner: int = 0
    heads: int = 0
    state: int = 0
    repeated: bool = False
    normed: bool = False
    viewed: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One layer. `weights` in bytes; `cached` (keys, values) elements for each cell; `window` 0: all cells; `state`
    elements for each sequence.
    """

    weights: int
    attention: Attention | None = None
    recurrent: Recurrent | None = None
    feed: Feed | None = None
    experts: Experts | None = None
    cached: tuple[int, int] = (0, 0)
    window: int = 0
    state: int = 0
    shapes: Shapes = field(default_factory=dict, compare=False, repr=False)

    def without_cache(self) -> Block:
        """The same layer, where it reads the keys and values of another or is never computed."""
        return replace(self, cached=(0, 0))

    @property
    def normed_behind(self) -> bool:
        """Whether norms follow the sums, as in encoders, instead of going before each part."""
        return "attn_norm" not in self.shapes and "attn_output_norm" in self.shapes


@dataclass(frozen=True, slots=True)
class Model:
    """All blocks. `cached`: keys and values are kept between steps; `steady`: sums take the place of the stream."""

    width: int
    blocks: tuple[Block, ...]
    cached: bool
    steady: bool


@dataclass(frozen=True, slots=True)
class Numbers:
    """Hyperparameters of one architecture; per-layer values are lists."""

    architecture: str
    values: Mapping[str, object]

    def of(self, name: str, layer: int = 0, default: int = 0) -> int:
        """The number `name` of a layer, from 0 to MAX_NUMBER; a yes is 1."""
        value = self.values.get(f"{self.architecture}.{name}")
        if isinstance(value, tuple):
            value = value[layer] if layer < len(value) else None
        return min(max(int(value), 0), MAX_NUMBER) if isinstance(value, int) else default

    def each(self, name: str) -> bool:
        """Whether every layer has a value of its own."""
        return isinstance(self.values.get(f"{self.architecture}.{name}"), tuple)


def block(numbers: Numbers, layer: int, weights: int, shapes: Shapes, window: int) -> Block:
    """The block of one layer."""
    attention = _attention(numbers, layer, shapes, windowed=window > 0)
    recurrent = _recurrent(numbers, layer, shapes)
    return Block(
        weights=weights,
        attention=attention,
        recurrent=recurrent,
        feed=_feed(numbers, layer, shapes),
        experts=_experts(numbers, layer, shapes),
        cached=_cached(attention),
        window=window,
        state=recurrent.convolved + recurrent.state if recurrent else _other_state(numbers, shapes),
        shapes=shapes,
    )


def _cached(attention: Attention | None) -> tuple[int, int]:
    if attention is None:
        return 0, 0
    return (attention.latent + attention.rope, 0) if attention.latent else (attention.key, attention.value)


def _other_state(n: Numbers, shapes: Shapes) -> int:
    """State of recurrences whose steps are not modelled: RWKV, and linear attention with keys of its own (KDA)."""
    width, heads, key = n.of("embedding_length"), n.of("attention.head_count"), n.of("kda.head_dim")
    if any(name.startswith("time_mix") for name in shapes):
        return width * (n.of("token_shift_count", default=2) + n.of("wkv.head_size"))
    if key and "attn_kv_a_mqa" not in shapes and shapes:
        return 3 * max(n.of("ssm.conv_kernel", default=4) - 1, 0) * heads * key + key * key * heads
    return 0


def _attention(n: Numbers, layer: int, shapes: Shapes, *, windowed: bool) -> Attention | None:
    heads = n.of("attention.head_count", layer)
    kv_heads = n.of("attention.head_count_kv", layer, heads)
    if not heads or not kv_heads or "attn_output" not in shapes:
        return None
    if "attn_kv_a_mqa" in shapes and "attn_k_b" in shapes:
        return _latent(n, layer, shapes, heads)
    per_head = n.of("embedding_length") // heads
    key_head, value_head = (
        n.of(f"attention.{name}_swa" if windowed else "", layer) or n.of(f"attention.{name}", layer, per_head)
        for name in ("key_length", "value_length")
    )
    query = heads * key_head
    whole = _rows(shapes, "attn_q")
    return Attention(
        heads=heads,
        query=query,
        key=kv_heads * key_head,
        value=kv_heads * value_head,
        value_head=value_head,
        normed="attn_norm" in shapes,
        turned=n.architecture not in UNTURNED,
        fused="attn_qkv" in shapes,
        gated=whole - query if whole == 2 * query else 0,
    )


def _latent(n: Numbers, layer: int, shapes: Shapes, heads: int) -> Attention:
    rank, rope = n.of("attention.kv_lora_rank", layer), n.of("rope.dimension_count", layer)
    value_head = n.of("attention.value_length_mla", layer)
    return Attention(
        heads=heads,
        query=heads * n.of("attention.key_length_mla", layer),
        key=rank + rope,
        value=rank,
        value_head=value_head,
        latent=rank,
        rope=rope,
        query_rank=_rows(shapes, "attn_q_a"),
    )


def _rows(shapes: Shapes, name: str) -> int:
    shape = shapes.get(name, ())
    return shape[1] if len(shape) > 1 else 0


def _feed(n: Numbers, layer: int, shapes: Shapes) -> Feed | None:
    for suffix in ("", "_shexp"):
        hidden = _rows(shapes, f"ffn_up{suffix}")
        if hidden:
            gated = f"ffn_gate{suffix}" in shapes
            doubled = not gated and hidden == 2 * n.of("feed_forward_length", layer)
            return Feed(hidden, gated or doubled, bool(suffix) and "ffn_gate_inp_shexp" in shapes)
    return None


def _experts(n: Numbers, layer: int, shapes: Shapes) -> Experts | None:
    used = n.of("expert_used_count", layer)
    for name, share in (("ffn_up_exps", 1), ("ffn_gate_up_exps", 2)):
        if used and name in shapes:
            return Experts(n.of("expert_count"), used, _rows(shapes, name) // share)
    return None


def _recurrent(n: Numbers, layer: int, shapes: Shapes) -> Recurrent | None:
    width = n.of("embedding_length")
    if "shortconv.conv" in shapes:
        kept = max(n.of("shortconv.l_cache") - 1, 0) * width
        return Recurrent("convolution", _rows(shapes, "shortconv.in_proj"), width, kept)
    if "ssm_conv1d" not in shapes:
        return None
    inner, state, groups = n.of("ssm.inner_size"), n.of("ssm.state_size"), n.of("ssm.group_count")
    heads = n.of("ssm.time_step_rank")
    channels = inner + 2 * groups * state
    kept = max(n.of("ssm.conv_kernel") - 1, 0) * channels
    delta = "ssm_dt" in shapes and "attn_qkv" in shapes
    return Recurrent(
        kind="delta" if delta else "scan",
        projected=_rows(shapes, "ssm_in"),
        channels=_rows(shapes, "ssm_conv1d"),
        convolved=kept,
        inner=inner,
        heads=heads,
        state=state * inner,
        repeated=delta and heads != groups,
        normed="ssm_norm" in shapes,
        viewed=delta or "ssm_x" in shapes,
    )
