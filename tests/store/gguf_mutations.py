"""Headers with one thing wrong, for `test_gguf_llama`: named ones for every kind of abort, and seeded random ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

from tests.store.raw_gguf import (
    BOOL,
    F32,
    I32,
    SPM_KINDS,
    SPM_TOKENS,
    STRING,
    U8,
    U16,
    U32,
    Raw,
    Weight,
    array,
    entry,
    llama_entries,
    llama_weights,
    text,
    vocabulary_entries,
    whole,
)

TOKENIZER = "tokenizer.ggml."
LETTERS = [chr(value) for value in range(33, 127)]
EDGES = (0, 1, 2, 3, 5, 63, 64, 65, 513, 1025, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 3e38, 1e-40)
TYPES = (0, 1, 2, 8, 9, 12, 24, 26, 27, 28, 30)


def one(key: str, kind: int, value: Any) -> dict[str, bytes | None]:
    return {key: entry(key, kind, value)}


def own(name: str, value: Any, kind: int = U32) -> dict[str, bytes | None]:
    return one(f"llama.{name}", kind, value)


def each(name: str, values: list[int]) -> dict[str, bytes | None]:
    return {f"llama.{name}": array(f"llama.{name}", I32, values)}


def vocabulary(model: str, tokens: list[str], kinds: list[int] | None = None, **extra: tuple[int, Any]) -> Raw:
    entries: dict[str, bytes | None] = {}
    for name, (kind, value) in extra.items():
        entries |= one(TOKENIZER + name, kind, value)
    return whole(entries, vocabulary=vocabulary_entries(model, tokens, kinds), size=len(tokens))


def charsmap(units: list[int], texts: bytes) -> Raw:
    table = struct.pack(f"<{len(units)}I", *units)
    key = TOKENIZER + "precompiled_charsmap"
    blob = array(key, U8, list(struct.pack("<I", len(table)) + table + texts))
    return whole({key: blob}, vocabulary=vocabulary_entries("t5", SPM_TOKENS, SPM_KINDS))


def architecture(name: str, numbers: dict[str, Any], **options: Any) -> Raw:
    """The llama model as one of another architecture; `numbers` by key replace or (None) remove its own."""
    entries: dict[str, bytes | None] = dict.fromkeys(llama_entries(options.get("experts", 0)))
    for key, data in llama_entries(options.get("experts", 0)).items():
        mine = key.replace("llama.", f"{name}.")
        entries[mine] = text(mine) + data[len(text(key)) :]
    for key, value in numbers.items():
        mine = f"{name}.{key}"
        entries[mine] = array(mine, I32, value) if isinstance(value, list) else value and entry(mine, U32, value)
        if value == 0:
            entries[mine] = entry(mine, U32, 0)
    return whole(entries | one("general.architecture", STRING, name), **options)


def retyped(name: str, kind: int) -> Raw:
    return whole(weights={name: Weight(name, llama_weights(len(SPM_TOKENS))[name].dimensions, kind)})


def named() -> Iterator[tuple[str, Raw]]:
    """(what is wrong, file): each ends the real library by a signal, or takes memory or time without end."""
    yield from _numbers()
    yield from _architectures()
    yield from _experts()
    yield from _tensors()
    yield from _vocabularies()


def _numbers() -> Iterator[tuple[str, Raw]]:
    for value in (0, 513, 10**6):
        yield f"block_count {value}", whole(own("block_count", value))
    yield "nextn above blocks", whole(own("nextn_predict_layers", 3))
    for value in ("", "nosuch"):
        yield f"rope scaling {value!r}", whole(own("rope.scaling.type", value, STRING))
    for epsilon in (-1.0, float("nan")):
        yield f"epsilon {epsilon}", whole(own("attention.layer_norm_rms_epsilon", epsilon, F32))
    yield "key rows of layer 1", whole(each("attention.head_count_kv", [2, 4]))


def _architectures() -> Iterator[tuple[str, Raw]]:
    yield "qwen2vl rotates no section", architecture("qwen2vl", {"rope.dimension_sections": [0, 0, 0, 0]})
    yield "olmo2 without heads", architecture("olmo2", {"attention.head_count": None})
    yield "internlm2 rotates a part", architecture("internlm2", {"rope.dimension_count": 8})
    yield (
        "hrm_text without cycles",
        architecture("hrm_text", {"hrm.layers_per_stack": 0, "hrm.h_cycles": 1, "hrm.l_cycles": 1}),
    )
    yield "nanbeige without loops", architecture("nanbeige", {"num_loops": 0})


def _experts() -> Iterator[tuple[str, Raw]]:
    for counts in ((4, 0), (4, 5), (2000, 2)):
        names = zip(("expert_count", "expert_used_count"), counts, strict=True)
        entries = {key: value for name, count in names for key, value in own(name, count).items()}
        yield f"experts {counts}", whole(entries, experts=4)
    yield "used without experts", whole(own("expert_used_count", 2))
    yield "groups without experts", whole(own("expert_group_count", 2))
    for groups, used in ((4, 1), (3, 1), (2, 0), (2, 2)):
        entries = own("expert_group_count", groups) | own("expert_group_used_count", used)
        yield f"expert groups {groups} {used}", whole(entries, experts=4)


def _tensors() -> Iterator[tuple[str, Raw]]:
    for kind in (24, 26, 27, 28):
        yield f"weights of type {kind}", retyped("blk.0.attn_q.weight", kind)
        yield f"embedding of type {kind}", retyped("token_embd.weight", kind)
    for name in ("blk.0.attn_norm.weight", "output_norm.weight"):
        yield f"{name} in F16", retyped(name, 1)
    factors = Weight("rope_freqs.weight", (8,), 1)
    yield "rope factors in F16", whole(weights={factors.name: factors})
    bias = Weight("blk.0.attn_q.bias", (64,), 30)
    yield "bias in BF16", whole(weights={bias.name: bias})


def _vocabularies() -> Iterator[tuple[str, Raw]]:
    yield "token twice", vocabulary("gpt2", [*LETTERS, "a"])
    yield "token twice after NUL", vocabulary("gpt2", [*LETTERS, "a\0b"])
    yield "llama without bytes", vocabulary("llama", LETTERS)
    yield "bert with byte tokens", vocabulary("bert", SPM_TOKENS, [6] * len(SPM_TOKENS))
    yield "bert without bos", vocabulary("bert", LETTERS, seperator_token_id=(U32, 1))
    yield "bert without separator", vocabulary("bert", LETTERS, bos_token_id=(U32, 1))
    yield "rwkv prefix is no token", vocabulary("rwkv", [*LETTERS, "\\nx"])
    for model in ("t5", "rwkv"):
        yield f"{model} token of 200 000", vocabulary(model, [*SPM_TOKENS, "a" * 200_000])
    for name in ("bos", "eos"):
        yield f"gpt2 adds a missing {name}", vocabulary("gpt2", LETTERS[:5], **{f"add_{name}_token": (BOOL, True)})
    yield (
        "chatglm adds a missing bos",
        vocabulary("gpt2", LETTERS, pre=(STRING, "chatglm-bpe"), add_bos_token=(BOOL, True)),
    )
    yield "llama3 begins without bos", vocabulary("gpt2", LETTERS[:5], pre=(STRING, "llama-bpe"))
    yield "gpt2 by white space", vocabulary("gpt2", LETTERS, pre=(STRING, "whitespace"))
    yield "charsmap leaves its units", charsmap(_node(ord("H"), 1 << 20), b"\0")
    yield "charsmap leaves its texts", charsmap(_leaf(value=4096), b"abc\0")
    yield "charsmap text without end", charsmap(_leaf(value=0), b"abc")


def _node(letter: int, base: int, leaf: int = 0) -> list[int]:
    """A double array of two blocks whose root has one child."""
    units = [0] * 512
    units[letter] = letter | leaf | base << 10
    return units


def _leaf(value: int) -> list[int]:
    """The byte `H` is replaced by the text at `value`."""
    units = _node(ord("H"), 256, leaf=1 << 8)
    units[ord("H") ^ 256] = value | 1 << 31
    return units


def random_header(seed: int) -> Raw:
    """A valid file with one to three of its numbers, types or shapes replaced by edges of their ranges."""
    rng = random.Random(seed)
    entries: dict[str, bytes | None] = {}
    weights: dict[str, Weight | None] = {}
    experts = rng.choice((0, 4))
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.25:
            weights |= _random_weight(rng, experts)
        else:
            entries |= _random_entry(rng, experts)
    return whole(entries, weights, experts=experts)


def _random_entry(rng: random.Random, experts: int) -> dict[str, bytes | None]:
    known = [key for key in llama_entries(experts) if key != "general.architecture"]
    more = (
        "attention.key_length",
        "attention.value_length",
        "nextn_predict_layers",
        "expert_group_count",
        "vocab_size",
    )
    key = rng.choice(
        [*known, *(f"llama.{name}" for name in more), *(TOKENIZER + f"{n}_token_id" for n in ("bos", "eot"))]
    )
    roll = rng.random()
    if key.endswith("epsilon") or roll < 0.1:
        return one(key, F32, rng.choice(FLOATS))
    if roll < 0.2:
        return {key: array(key, rng.choice((I32, U32)), [rng.choice((0, 1, 2, 4)) for _ in range(rng.randint(0, 3))])}
    if roll < 0.3:
        return {key: None} if key in llama_entries(experts) else one(key, U16, 1)
    return one(key, U32, rng.choice(EDGES))


def _random_weight(rng: random.Random, experts: int) -> dict[str, Weight | None]:
    old = rng.choice(list(llama_weights(len(SPM_TOKENS), experts).values()))
    roll = rng.random()
    if roll < 0.2:
        return {old.name: None}
    if roll < 0.5:
        return {old.name: Weight(old.name, (*old.dimensions[:-1], rng.choice((1, 2, 63, 64, 65))))}
    fitting = [kind for kind in TYPES if old.dimensions[0] % {2: 32, 8: 32, 9: 32, 12: 256}.get(kind, 1) == 0]
    return {old.name: Weight(old.name, old.dimensions, rng.choice(fitting))}
