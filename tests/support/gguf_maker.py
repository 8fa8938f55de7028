"""Make tiny, seeded, valid llama-architecture GGUF files that the real llama.cpp loads and decodes.

Called by tests of every area that need a model whose mechanics are real and whose words do not matter. The same
arguments always give the same bytes. Generated text is printable ASCII; end-of-generation tokens never win under greedy
or top-k sampling (their output rows are zero), so a stream lasts until its token limit unless `ends=True`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gguf
import numpy as np

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BOS_ID, START_ID, EOS_ID = 0, 1, 2
SPM_CONTROL = ("<unk>", "<s>", "</s>")
MIN_VOCAB = 300

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def byte_characters() -> list[str]:
    """The 256 printable characters that byte-level BPE writes in place of the byte values 0…255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(value) if value in printable else chr(next(spare)) for value in range(256)]


def _letter_pairs(count: int) -> list[tuple[str, str]]:
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    pairs = [(left, right) for right in letters for left in letters]
    if count > len(pairs):
        raise ValueError(f"vocab is too large: at most {len(pairs)} merged tokens")
    return pairs[:count]


def _bpe_vocabulary(size: int) -> tuple[list[str], list[int], list[str]]:
    base = [*CONTROL, *byte_characters()]
    pairs = _letter_pairs(size - len(base))
    tokens = base + [left + right for left, right in pairs]
    kinds = [_CONTROL] * len(CONTROL) + [_NORMAL] * (size - len(CONTROL))
    return tokens, kinds, [f"{left} {right}" for left, right in pairs]


def _spm_vocabulary(size: int) -> tuple[list[str], list[int], list[float]]:
    base = [*SPM_CONTROL, *(f"<0x{value:02X}>" for value in range(256)), "\u2581"]
    singles = [chr(value) for value in range(ord("!"), ord("~") + 1)]
    pairs = _letter_pairs(max(0, size - len(base) - len(singles)))
    rest = [*singles, *(left + right for left, right in pairs)][: size - len(base)]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256 + [_NORMAL] * (1 + len(rest))
    tokens = base + rest
    return tokens, kinds, [0.0] * len(base) + [-float(index + 1) for index in range(len(rest))]


def _speakable(token: str) -> bool:
    marker = len(token) > 1 and token.startswith("<") and token.endswith(">")
    return token.isascii() and token.isprintable() and not marker


def _output_rows(rng: np.random.Generator, tokens: list[str], width: int, ends: bool) -> np.ndarray:
    rows = rng.standard_normal((len(tokens), width)).astype(np.float32)
    silent = [index for index, token in enumerate(tokens) if not _speakable(token)]
    if ends:
        silent = [index for index in silent if index != EOS_ID]
    rows[silent] = 0.0
    return rows


def _write_vocabulary(writer: gguf.GGUFWriter, tokenizer: str, vocab: int) -> list[str]:
    if tokenizer == "bpe":
        tokens, kinds, merges = _bpe_vocabulary(vocab)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(merges)
        writer.add_bos_token_id(BOS_ID)
    else:
        tokens, kinds, scores = _spm_vocabulary(vocab)
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(scores)
        writer.add_bos_token_id(1)
        writer.add_unk_token_id(0)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_eos_token_id(EOS_ID)
    return tokens


def _add_layer(
    writer: gguf.GGUFWriter, rng: np.random.Generator, index: int, width: int, kv_width: int, hidden: int
) -> None:
    shapes = {
        "attn_q": (width, width),
        "attn_k": (kv_width, width),
        "attn_v": (kv_width, width),
        "attn_output": (width, width),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    for name, shape in shapes.items():
        weights = rng.standard_normal(shape).astype(np.float32) / np.float32(shape[1] ** 0.5)
        writer.add_tensor(f"blk.{index}.{name}.weight", weights)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.{index}.{name}.weight", np.ones(width, dtype=np.float32))


def _write_hyperparameters(
    writer: gguf.GGUFWriter, layers: int, width: int, heads: int, kv_heads: int, hidden: int, context: int, vocab: int
) -> None:
    writer.add_type("model")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(vocab)


def make_gguf(
    path: Path,
    *,
    seed: int = 0,
    name: str = "tiny",
    vocab: int = 512,
    layers: int = 1,
    embedding: int = 64,
    heads: int = 2,
    kv_heads: int = 1,
    feed_forward: int = 128,
    context_length: int = 4096,
    tokenizer: Literal["bpe", "spm"] = "bpe",
    chat_template: str | None = CHATML,
    pooling_type: int | None = None,
    ends: bool = False,
    split_tensors: int = 0,
) -> Path:
    """Write a GGUF file of F32 random weights to `path` and return `path`.

    `vocab` counts all tokens (≥ 300: three control tokens, 256 bytes, letter pairs). `pooling_type` makes it look like
    an embedding model. `ends` lets the end token win sometimes. With `split_tensors` the model is split into parts of
    that many tensors, `stem-00001-of-0000N.gguf` and so on, and the first part's path is returned. With the defaults
    the file is about 0.4 MB. Raises ValueError for sizes that do not fit together.
    """
    if vocab < MIN_VOCAB or embedding % heads or heads % kv_heads:
        raise ValueError(f"vocab must be ≥ {MIN_VOCAB}, embedding a multiple of heads, heads a multiple of kv_heads")
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama", split_max_tensors=split_tensors)
    writer.add_name(name)
    _write_hyperparameters(writer, layers, embedding, heads, kv_heads, feed_forward, context_length, vocab)
    tokens = _write_vocabulary(writer, tokenizer, vocab)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    if pooling_type is not None:
        writer.add_uint32("llama.pooling_type", pooling_type)
    writer.add_tensor("token_embd.weight", rng.standard_normal((vocab, embedding)).astype(np.float32))
    for index in range(layers):
        _add_layer(writer, rng, index, embedding, embedding // heads * kv_heads, feed_forward)
    writer.add_tensor("output_norm.weight", np.ones(embedding, dtype=np.float32))
    writer.add_tensor("output.weight", _output_rows(rng, tokens, embedding, ends))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"), default=path) if split_tensors else path
