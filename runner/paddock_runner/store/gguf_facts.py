"""What a checked GGUF header says about its model: sizes, shape, abilities, and where the bytes of its weights lie.

Used by `show`, `pull` (the `details` of its result), `create` and the memory estimate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from paddock_runner.core.memory_facts import memory_facts
from paddock_runner.store.gguf_header import GGUFHeader
from paddock_runner.store.gguf_reader import Scalar
from paddock_runner.store.gguf_rules import RECURRENT
from paddock_runner.store.gguf_tables import FILE_TYPES

_MAX_BLOCKS = 1024
_BLOCK = re.compile(r"(?:enc\.|dec\.)?blk\.([0-9]{1,4})\.")
_INPUT = ("token_embd", "position_embd", "token_types", "per_layer_token_embd", "per_layer_model_proj")
_OUTPUT = ("output.", "output_norm", "cls.", "cls_out", "dec.output_norm", "enc.output_norm")
_TEMPLATE = "tokenizer.chat_template"
_DESCRIBED_NAMES = """
    name basename finetune size_label author organization version description license license.name license.link url
    repo_url source.url quantized_by tags languages
"""
_DESCRIBED = tuple(_DESCRIBED_NAMES.split())


@dataclass(frozen=True, slots=True)
class TypeShare:
    """How many tensors, elements and bytes of a file have one tensor type."""

    tensors: int
    elements: int
    size: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything about a model that its header tells. Numbers that the file does not say are None; lengths are in
    tokens or elements. `heads` and `kv_heads` are one number, or one per layer."""

    architecture: str
    parameter_count: int
    types: dict[str, TypeShare]
    file_type: int | None
    file_type_name: str
    context_length: int | None
    embedding_length: int | None
    layers: int | None
    heads: int | tuple[int, ...] | None
    kv_heads: int | tuple[int, ...] | None
    key_length: int | None
    value_length: int | None
    vocab_size: int
    sliding_window: int | None
    sliding_window_pattern: int | tuple[int, ...] | None
    kv_lora_rank: int | None
    state: dict[str, Scalar | tuple[Scalar, ...]]
    expert_count: int
    expert_used_count: int
    pooling_type: int | None
    chat_templates: dict[str, str]
    tokenizer: str | None
    pre_tokenizer: str | None
    description: dict[str, str]
    capabilities: list[str]

    @property
    def recurrent(self) -> bool:
        """Whether some or all layers keep a state of fixed size instead of keys and values."""
        return bool(self.state) or self.architecture in RECURRENT


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Bytes of weights by where llama.cpp places them. `tied`: the output uses the input's embedding a second time."""

    input: int
    blocks: tuple[int, ...]
    output: int
    other: int
    tied: bool

    @property
    def total(self) -> int:
        return self.input + sum(self.blocks) + self.output + self.other


def facts(header: GGUFHeader) -> Facts:
    """All facts of a header (of a split model: the joined one)."""
    key_length, value_length = _head_lengths(header)
    return Facts(
        architecture=header.architecture,
        parameter_count=header.parameter_count,
        types=type_shares(header),
        file_type=header.integer("general.file_type"),
        file_type_name=FILE_TYPES.get(header.integer("general.file_type") or 0, "unknown"),
        context_length=header.own("context_length"),
        embedding_length=header.own("embedding_length"),
        layers=header.own("block_count"),
        heads=header.per_layer("attention.head_count"),
        kv_heads=header.per_layer("attention.head_count_kv") or header.per_layer("attention.head_count"),
        key_length=key_length,
        value_length=value_length,
        vocab_size=header.vocab_size,
        sliding_window=header.own("attention.sliding_window"),
        sliding_window_pattern=header.per_layer("attention.sliding_window_pattern"),
        kv_lora_rank=header.own("attention.kv_lora_rank"),
        state=_state(header),
        expert_count=header.own("expert_count") or 0,
        expert_used_count=header.own("expert_used_count") or 0,
        pooling_type=header.pooling_type,
        chat_templates=chat_templates(header),
        tokenizer=header.text("tokenizer.ggml.model"),
        pre_tokenizer=header.text("tokenizer.ggml.pre"),
        description=description(header),
        capabilities=capabilities(header),
    )


def type_shares(header: GGUFHeader) -> dict[str, TypeShare]:
    """The mix of tensor types, the one with most bytes first."""
    sums: dict[str, list[int]] = {}
    for tensor in header.tensors:
        share = sums.setdefault(tensor.type, [0, 0, 0])
        share[0] += 1
        share[1] += tensor.elements
        share[2] += tensor.size
    ordered = sorted(sums.items(), key=lambda item: (-item[1][2], item[0]))
    return {name: TypeShare(*share) for name, share in ordered}


def _head_lengths(header: GGUFHeader) -> tuple[int | None, int | None]:
    width, heads = header.own("embedding_length"), header.own("attention.head_count")
    per_head = width // heads if width and heads else None
    return header.own("attention.key_length") or per_head, header.own("attention.value_length") or per_head


def _state(header: GGUFHeader) -> dict[str, Scalar | tuple[Scalar, ...]]:
    prefix = header.architecture + "."
    groups = ("ssm.", "wkv.", "kda.", "shortconv.", "token_shift_count", "full_attention_interval")
    return {
        key.removeprefix(prefix): value
        for key, value in header.metadata.items()
        if key.startswith(prefix) and key.removeprefix(prefix).startswith(groups)
    }


def chat_templates(header: GGUFHeader) -> dict[str, str]:
    """The file's chat templates by name; the unnamed one is `default`."""
    found = {}
    for key, value in header.metadata.items():
        if isinstance(value, str) and (key == _TEMPLATE or key.startswith(_TEMPLATE + ".")):
            found[key.removeprefix(_TEMPLATE).lstrip(".") or "default"] = value
    return found


def description(header: GGUFHeader) -> dict[str, str]:
    """What the file says about itself under `general.`: name, author, license and the like. Lists become text."""
    found = {}
    for name in _DESCRIBED:
        value = header.metadata.get(f"general.{name}")
        if value is not None:
            found[name] = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return found


def weights_by_layer(header: GGUFHeader) -> LayerBytes:
    """Bytes of weights of the input, each block and the output, from the tensors' names."""
    blocks: dict[int, int] = {}
    sums = {"input": 0, "output": 0, "other": 0}
    for tensor in header.tensors:
        match = _BLOCK.match(tensor.name)
        if match is not None and int(match[1]) < _MAX_BLOCKS:
            blocks[int(match[1])] = blocks.get(int(match[1]), 0) + tensor.size
        else:
            sums[_place(tensor.name)] += tensor.size
    count = max(blocks, default=-1) + 1
    tied = header.kind == "model" and not any(tensor.name == "output.weight" for tensor in header.tensors)
    return LayerBytes(
        sums["input"], tuple(blocks.get(index, 0) for index in range(count)), sums["output"], sums["other"], tied
    )


def _place(name: str) -> str:
    if name.startswith(_INPUT):
        return "input"
    return "output" if name.startswith(_OUTPUT) else "other"


def human_number(count: int) -> str:
    """A parameter count the way Ollama shows it: 134.52M, 3.2B, 1T."""
    for limit, letter, digits in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= limit:
            scaled = count / limit
            return f"{scaled:.0f}{letter}" if scaled == int(scaled) else f"{scaled:.{digits}f}{letter}"
    return str(count)


def capabilities(header: GGUFHeader, template: str | None = None) -> list[str]:
    """What the model can do, from its header and chat template (`template` replaces the file's own)."""
    if header.pooling_type is not None:
        return ["embedding"]
    text = template or header.chat_template or ""
    found = {
        "completion": True,
        "tools": "tools" in text or ".Tools" in text,
        "insert": ".Suffix" in text,
        "vision": bool(header.own("vision.block_count")),
        "thinking": ("<think>" in text and "</think>" in text) or "split('</think>')" in text,
    }
    return [name for name, able in found.items() if able]


def details(header: GGUFHeader) -> dict[str, Any]:
    """The `details` object of the pull result (docs/reference/contracts.md); unknown numbers are None.

    Keys after `capabilities` are there only when the model has what they count.
    """
    heads = header.own("attention.head_count")
    key_length, value_length = _head_lengths(header)
    extra = {
        "expertCount": header.own("expert_count"),
        "expertUsedCount": header.own("expert_used_count"),
        "slidingWindow": header.own("attention.sliding_window"),
        "kvLoraRank": header.own("attention.kv_lora_rank"),
        "poolingType": header.pooling_type,
        "memory": memory_facts(header) if header.kind == "model" else None,
    }
    return {
        "format": "gguf",
        "family": header.architecture,
        "parameterSize": human_number(header.parameter_count),
        "parameterCount": header.parameter_count,
        "quantization": header.quantization,
        "architecture": header.architecture,
        "contextLength": header.own("context_length"),
        "embeddingLength": header.own("embedding_length"),
        "blockCount": header.own("block_count"),
        "headCount": heads,
        "headCountKV": header.own("attention.head_count_kv") or heads,
        "keyLength": key_length,
        "valueLength": value_length,
        "vocabSize": header.vocab_size,
        "capabilities": capabilities(header),
    } | {name: value for name, value in extra.items() if value}
