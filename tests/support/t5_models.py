"""A tiny T5 encoder of random weights and its forward pass in NumPy: a model that sees one text at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
WIDTH, HEADS, HIDDEN, LAYERS, BUCKETS, VOCAB = 32, 4, 64, 2, 32, 300
_EPSILON = 1e-6


def tiny_t5(path: Path, *, context: int = 256) -> tuple[Path, dict[str, Array]]:
    """A `t5encoder` that pools by the mean; its weights are returned with it."""
    weights = _weights()
    writer = gguf.GGUFWriter(str(path), "t5encoder")
    writer.add_type("model")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(_EPSILON)
    writer.add_relative_attn_buckets_count(BUCKETS)
    writer.add_uint32("t5encoder.pooling_type", 1)
    _write_vocabulary(writer)
    for name, array in weights.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, weights


def _write_vocabulary(writer: gguf.GGUFWriter) -> None:
    letters = [chr(ord("a") + at) for at in range(26)]
    words = [f"\u2581{letters[at % 26]}{at // 26}" for at in range(VOCAB - 3 - len(letters))]
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<pad>", "</s>", "<unk>", *words, *letters])
    writer.add_token_scores([-1.0] * VOCAB)
    writer.add_token_types([3, 3, 2] + [1] * (VOCAB - 3))
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)


def _weights() -> dict[str, Array]:
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Array:
        return (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    weights = {"token_embd.weight": matrix(VOCAB, WIDTH) * 4, "enc.output_norm.weight": np.ones(WIDTH, np.float32)}
    for layer in range(LAYERS):
        block = f"enc.blk.{layer}."
        weights |= {f"{block}{name}.weight": matrix(WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_o")}
        weights |= {f"{block}{name}.weight": np.ones(WIDTH, np.float32) for name in ("attn_norm", "ffn_norm")}
        weights |= {f"{block}{name}.weight": matrix(HIDDEN, WIDTH) for name in ("ffn_gate", "ffn_up")}
        weights[f"{block}ffn_down.weight"] = matrix(WIDTH, HIDDEN)
    weights["enc.blk.0.attn_rel_b.weight"] = matrix(BUCKETS, HEADS)
    return weights


def vector(weights: dict[str, Array], tokens: Sequence[int]) -> Array:
    """The mean of the last layer, of length 1."""
    state = weights["token_embd.weight"][list(tokens)]
    bias = weights["enc.blk.0.attn_rel_b.weight"][_buckets(len(tokens))].transpose(2, 0, 1)
    for layer in range(LAYERS):
        block = f"enc.blk.{layer}."
        state = state + _attention(weights, block, _norm(state), bias)
        inner = _norm(state)
        gate = _gelu(inner @ weights[f"{block}ffn_gate.weight"].T) * (inner @ weights[f"{block}ffn_up.weight"].T)
        state = state + gate @ weights[f"{block}ffn_down.weight"].T
    mean = _norm(state).mean(axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32)


def _attention(weights: dict[str, Array], block: str, state: Array, bias: Array) -> Array:
    def split(name: str) -> Array:
        return (state @ weights[f"{block}{name}.weight"].T).reshape(len(state), HEADS, -1).transpose(1, 0, 2)

    scores = split("attn_q") @ split("attn_k").transpose(0, 2, 1) + bias
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = (shares @ split("attn_v")).transpose(1, 0, 2).reshape(len(state), WIDTH)
    return mixed @ weights[f"{block}attn_o.weight"].T


def _buckets(count: int) -> NDArray[np.int64]:
    distance = np.arange(count)[None, :] - np.arange(count)[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    far = np.maximum(np.abs(distance), 1)
    large = exact + (np.log(far / exact) / np.log(128 / exact) * (half - exact)).astype(np.int64)
    near = np.where(np.abs(distance) < exact, np.abs(distance), np.minimum(large, half - 1))
    return near + np.where(distance > 0, half, 0)


def _norm(state: Array) -> Array:
    return state / np.sqrt((state**2).mean(axis=-1, keepdims=True) + _EPSILON)


def _gelu(inputs: Array) -> Array:
    return 0.5 * inputs * (1 + np.tanh(0.7978845608 * (inputs + 0.044715 * inputs**3)))
