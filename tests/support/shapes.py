"""Write GGUF files of many architectures whose tensors are holes: exact sizes, no bytes on the disk, all weights zero.

Called by the tests and the benchmark of the memory estimate. llama.cpp loads and decodes them; what they say is of no
interest. `gguf_maker` makes files that also talk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Tensors = dict[str, tuple[int, ...]]

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
TYPE = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class Shape:
    """`keys` are hyperparameters without the architecture's prefix; `tensors` have llama.cpp's order of dimensions."""

    architecture: str
    vocab: int
    keys: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    type: gguf.GGMLQuantizationType = TYPE.F16


def write_shape(path: Path, shape: Shape) -> Path:
    """Write the file: a true header, and holes where the weights are. Returns `path`."""
    writer = gguf.GGUFWriter(str(path), shape.architecture)
    writer.add_type("model")
    writer.add_context_length(131072)
    writer.add_vocab_size(shape.vocab)
    for key, value in shape.keys.items():
        _add(writer, f"{shape.architecture}.{key}", value)
    _add_vocabulary(writer, shape.vocab)
    writer.add_token_type_count(2)
    for name, dimensions in shape.tensors.items():
        _add_tensor(writer, name, dimensions, _type_of(name, dimensions, shape.type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    header = writer.fout[0].tell()
    writer.close()
    with path.open("r+b") as stream:
        stream.truncate(-(-header // 32) * 32 + sum(_padded(info.nbytes) for info in writer.tensors[0].values()))
    return path


def _padded(size: int) -> int:
    return -(-size // 32) * 32


def _type_of(name: str, dimensions: tuple[int, ...], wanted: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    small = len(dimensions) == 1 or not name.endswith(".weight") or "norm" in name or "conv" in name.split(".")[-2]
    return TYPE.F32 if small or "_inp." in name or dimensions[0] % 32 else wanted


def _add_tensor(writer: gguf.GGUFWriter, name: str, dimensions: tuple[int, ...], kind: Any) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor_info(
        name, dimensions[::-1], np.dtype(np.float32), int(np.prod(dimensions)) // block * size, raw_dtype=kind
    )


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_uint32(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    base = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*base, *(f"w{index}" for index in range(size - len(base)))])
    writer.add_token_scores([-float(index) for index in range(size)])
    writer.add_token_types([_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256 + [_NORMAL] * (size - len(base)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


@dataclass(frozen=True)
class Size:
    """The numbers of a model; the same for every architecture as far as it has them."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    head: int = 32
    hidden: int = 384
    vocab: int = 8192
    experts: int = 8
    used: int = 2
    expert_hidden: int = 96
    more: Mapping[str, Any] = field(default_factory=dict)


def _keys(size: Size) -> dict[str, Any]:
    return {
        "block_count": size.layers,
        "embedding_length": size.width,
        "feed_forward_length": size.hidden,
        "attention.head_count": size.heads,
        "attention.head_count_kv": size.kv_heads,
        "attention.key_length": size.head,
        "attention.value_length": size.head,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": size.head,
    }


def _ends(size: Size, *, tied: bool = False) -> Tensors:
    ends: Tensors = {"token_embd.weight": (size.width, size.vocab), "output_norm.weight": (size.width,)}
    return ends if tied else ends | {"output.weight": (size.width, size.vocab)}


def _attention(size: Size) -> Tensors:
    return {
        "attn_norm.weight": (size.width,),
        "attn_q.weight": (size.width, size.heads * size.head),
        "attn_k.weight": (size.width, size.kv_heads * size.head),
        "attn_v.weight": (size.width, size.kv_heads * size.head),
        "attn_output.weight": (size.heads * size.head, size.width),
    }


def _feed(width: int, hidden: int, suffix: str = "") -> Tensors:
    return {
        f"ffn_gate{suffix}.weight": (width, hidden),
        f"ffn_up{suffix}.weight": (width, hidden),
        f"ffn_down{suffix}.weight": (hidden, width),
    }


def _experts(size: Size) -> Tensors:
    return {
        "ffn_gate_inp.weight": (size.width, size.experts),
        "ffn_gate_exps.weight": (size.width, size.expert_hidden, size.experts),
        "ffn_up_exps.weight": (size.width, size.expert_hidden, size.experts),
        "ffn_down_exps.weight": (size.expert_hidden, size.width, size.experts),
    }


def _blocks(layers: int, block: Callable[[int], Tensors]) -> Tensors:
    return {f"blk.{layer}.{name}": shape for layer in range(layers) for name, shape in block(layer).items()}


def llama(size: Size = Size(), type: gguf.GGMLQuantizationType = TYPE.F16) -> Shape:
    block = _attention(size) | {"ffn_norm.weight": (size.width,)} | _feed(size.width, size.hidden)
    return Shape("llama", size.vocab, _keys(size), _ends(size) | _blocks(size.layers, lambda _: block), type)


def qwen2(size: Size = Size()) -> Shape:
    bias: Tensors = {
        f"attn_{name}.bias": (heads * size.head,)
        for name, heads in (("q", size.heads), ("k", size.kv_heads), ("v", size.kv_heads))
    }
    block = _attention(size) | bias | {"ffn_norm.weight": (size.width,)} | _feed(size.width, size.hidden)
    return Shape("qwen2", size.vocab, _keys(size), _ends(size, tied=True) | _blocks(size.layers, lambda _: block))


def _qk_norms(size: Size) -> Tensors:
    return {"attn_q_norm.weight": (size.head,), "attn_k_norm.weight": (size.head,)}


def qwen3(size: Size = Size(head=64)) -> Shape:
    block = _attention(size) | _qk_norms(size) | {"ffn_norm.weight": (size.width,)} | _feed(size.width, size.hidden)
    return Shape("qwen3", size.vocab, _keys(size), _ends(size, tied=True) | _blocks(size.layers, lambda _: block))


def qwen3moe(size: Size = Size()) -> Shape:
    block = _attention(size) | _qk_norms(size) | {"ffn_norm.weight": (size.width,)} | _experts(size)
    keys = {"expert_count": size.experts, "expert_used_count": size.used}
    keys["expert_feed_forward_length"] = size.expert_hidden
    return Shape("qwen3moe", size.vocab, _keys(size) | keys, _ends(size) | _blocks(size.layers, lambda _: block))


def gemma3(size: Size = Size(layers=6, kv_heads=1, head=64, vocab=262144, width=64)) -> Shape:
    norms: Tensors = {f"{name}.weight": (size.width,) for name in ("post_attention_norm", "ffn_norm", "post_ffw_norm")}
    block = _attention(size) | _qk_norms(size) | norms | _feed(size.width, size.hidden)
    keys = _keys(size) | {"attention.sliding_window": 512} | size.more
    return Shape("gemma3", size.vocab, keys, _ends(size, tied=True) | _blocks(size.layers, lambda _: block))


def _mamba2(size: Size, state: int, groups: int, ranks: int) -> Tensors:
    inner = 2 * size.width
    mixed = inner + 2 * groups * state
    return {
        "attn_norm.weight": (size.width,),
        "ssm_in.weight": (size.width, 2 * inner + 2 * groups * state + ranks),
        "ssm_conv1d.weight": (4, mixed),
        "ssm_conv1d.bias": (mixed,),
        "ssm_dt.bias": (ranks,),
        "ssm_a": (1, ranks),
        "ssm_d": (1, ranks),
        "ssm_norm.weight": (inner // groups, groups),
        "ssm_out.weight": (inner, size.width),
    }


def granitehybrid(size: Size = Size(layers=8), every: int = 4) -> Shape:
    state, groups, ranks = 64, 1, 2 * size.width // 32
    attends = [(layer + 1) % every == 0 for layer in range(size.layers)]
    feed = {"ffn_norm.weight": (size.width,)} | _feed(size.width, size.hidden)
    keys = _keys(size) | {
        "attention.head_count_kv": [size.kv_heads if attend else 0 for attend in attends],
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2 * size.width,
        "ssm.state_size": state,
        "ssm.time_step_rank": ranks,
        "ssm.group_count": groups,
    }
    recurrent = _mamba2(size, state, groups, ranks)
    blocks = _blocks(size.layers, lambda layer: (_attention(size) if attends[layer] else recurrent) | feed)
    return Shape("granitehybrid", size.vocab, keys, _ends(size, tied=True) | blocks)


def lfm2(size: Size = Size(layers=8), every: int = 4) -> Shape:
    attends = [(layer + 1) % every == 0 for layer in range(size.layers)]
    feed = {"ffn_norm.weight": (size.width,)} | _feed(size.width, size.hidden)
    keys = _keys(size) | {"attention.head_count_kv": [size.kv_heads if attend else 0 for attend in attends]}
    keys["shortconv.l_cache"] = 3
    conv: Tensors = {
        "attn_norm.weight": (size.width,),
        "shortconv.conv.weight": (3, size.width),
        "shortconv.in_proj.weight": (size.width, 3 * size.width),
        "shortconv.out_proj.weight": (size.width, size.width),
    }
    attention = _attention(size) | _qk_norms(size)
    ends = _ends(size, tied=True)
    ends["token_embd_norm.weight"] = ends.pop("output_norm.weight")
    blocks = _blocks(size.layers, lambda layer: (attention if attends[layer] else conv) | feed)
    return Shape("lfm2", size.vocab, keys, ends | blocks)


def qwen3next(size: Size = Size(layers=8), every: int = 4) -> Shape:
    state, groups, ranks = 32, 4, 8
    key, value = state * groups, state * ranks
    keys = _keys(size) | {
        "expert_count": size.experts,
        "expert_used_count": size.used,
        "expert_feed_forward_length": size.expert_hidden,
        "expert_shared_feed_forward_length": size.expert_hidden,
        "full_attention_interval": every,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": value,
        "ssm.state_size": state,
        "ssm.time_step_rank": ranks,
        "ssm.group_count": groups,
    }
    feed = _experts(size) | {"ffn_gate_inp_shexp.weight": (size.width,)}
    feed |= _feed(size.width, size.expert_hidden, "_shexp") | {"post_attention_norm.weight": (size.width,)}
    attention = _attention(size) | _qk_norms(size) | {"attn_q.weight": (size.width, 2 * size.heads * size.head)}
    recurrent: Tensors = {
        "attn_norm.weight": (size.width,),
        "attn_qkv.weight": (size.width, 2 * key + value),
        "attn_gate.weight": (size.width, value),
        "ssm_conv1d.weight": (4, 2 * key + value),
        "ssm_dt.bias": (ranks,),
        "ssm_a": (ranks,),
        "ssm_ba.weight": (size.width, 2 * ranks),
        "ssm_norm.weight": (state,),
        "ssm_out.weight": (value, size.width),
    }
    blocks = _blocks(size.layers, lambda layer: (recurrent if (layer + 1) % every else attention) | feed)
    return Shape("qwen3next", size.vocab, keys, _ends(size) | blocks)


def deepseek2(size: Size = Size(), rank: int = 64, rope: int = 32, q_rank: int = 96) -> Shape:
    nope = size.head
    keys = _keys(size) | {
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": size.head,
        "attention.q_lora_rank": q_rank,
        "attention.kv_lora_rank": rank,
        "rope.dimension_count": rope,
        "leading_dense_block_count": 1,
        "expert_count": size.experts,
        "expert_used_count": size.used,
        "expert_shared_count": 1,
        "expert_feed_forward_length": size.expert_hidden,
    }
    attention: Tensors = {
        "attn_norm.weight": (size.width,),
        "attn_q_a_norm.weight": (q_rank,),
        "attn_kv_a_norm.weight": (rank,),
        "attn_q_a.weight": (size.width, q_rank),
        "attn_q_b.weight": (q_rank, size.heads * (nope + rope)),
        "attn_kv_a_mqa.weight": (size.width, rank + rope),
        "attn_k_b.weight": (nope, rank, size.heads),
        "attn_v_b.weight": (rank, size.head, size.heads),
        "attn_output.weight": (size.heads * size.head, size.width),
        "ffn_norm.weight": (size.width,),
    }
    experts = _experts(size) | _feed(size.width, size.expert_hidden, "_shexp")
    dense = _feed(size.width, size.hidden)
    blocks = _blocks(size.layers, lambda layer: attention | (experts if layer else dense))
    return Shape("deepseek2", size.vocab, keys, _ends(size) | blocks)


def _bert(size: Size, architecture: str, feed: Tensors, ends: Tensors) -> Shape:
    norms: Tensors = {
        f"{name}.{part}": (size.width,)
        for name in ("attn_output_norm", "layer_output_norm")
        for part in ("weight", "bias")
    }
    block = _attention(size) | norms | feed
    del block["attn_norm.weight"]
    keys = _keys(size) | {"attention.causal": False, "pooling_type": 1, "attention.layer_norm_epsilon": 1e-12}
    front: Tensors = {
        "token_embd.weight": (size.width, size.vocab),
        "token_types.weight": (size.width, 2),
        "token_embd_norm.weight": (size.width,),
        "token_embd_norm.bias": (size.width,),
    }
    return Shape(architecture, size.vocab, keys, front | ends | _blocks(size.layers, lambda _: block))


def bert(size: Size = Size(kv_heads=4)) -> Shape:
    feed: Tensors = {"ffn_up.weight": (size.width, size.hidden), "ffn_up.bias": (size.hidden,)}
    feed |= {"ffn_down.weight": (size.hidden, size.width), "ffn_down.bias": (size.width,)}
    return _bert(size, "bert", feed, {"position_embd.weight": (size.width, 131072)})


def nomic_bert(size: Size = Size(kv_heads=4)) -> Shape:
    return _bert(size, "nomic-bert", _feed(size.width, size.hidden), {})


SHAPES: dict[str, Callable[[], Shape]] = {
    "llama": llama,
    "llama-q8_0": lambda: llama(type=TYPE.Q8_0),
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3moe": qwen3moe,
    "gemma3": gemma3,
    "granitehybrid": granitehybrid,
    "lfm2": lfm2,
    "qwen3next": qwen3next,
    "deepseek2": deepseek2,
    "bert": bert,
    "nomic-bert": nomic_bert,
}

LARGE_SHAPES: dict[str, Callable[[], Shape]] = {
    "llama of 1.2 B": lambda: llama(
        Size(layers=16, width=2048, heads=32, kv_heads=8, head=64, hidden=8192, vocab=128256)
    ),
    "qwen3 of 0.6 B": lambda: qwen3(
        Size(layers=28, width=1024, heads=16, kv_heads=8, head=128, hidden=3072, vocab=151936)
    ),
    "gemma3 of 1 B": lambda: gemma3(
        Size(layers=26, width=1152, heads=4, kv_heads=1, head=256, hidden=6912, vocab=262144)
    ),
    "lfm2 of 350 M": lambda: lfm2(
        Size(layers=16, width=1024, heads=16, kv_heads=8, head=64, hidden=4608, vocab=65536), every=3
    ),
}
"""The sizes of models that people use, for the benchmark."""
