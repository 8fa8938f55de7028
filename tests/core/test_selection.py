"""Which files of a repository are the model, in tables; and the names of split files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddock_runner.core.selection import NothingFitsError, SelectionError, select
from paddock_runner.core.shards import Shard, group, is_gguf, parse_shard

BARTOWSKI = [
    ".gitattributes",
    "README.md",
    "X-3B-Instruct-IQ3_M.gguf",
    "X-3B-Instruct-IQ4_XS.gguf",
    "X-3B-Instruct-Q4_0.gguf",
    "X-3B-Instruct-Q4_0_4_4.gguf",
    "X-3B-Instruct-Q4_K_L.gguf",
    "X-3B-Instruct-Q4_K_M.gguf",
    "X-3B-Instruct-Q8_0.gguf",
    "X-3B-Instruct-f16.gguf",
    "X-3B-Instruct.imatrix",
]
UNSLOTH = [
    "BF16/X-BF16-00001-of-00002.gguf",
    "BF16/X-BF16-00002-of-00002.gguf",
    "X-Q4_K_M.gguf",
    "X-UD-IQ1_S.gguf",
    "X-UD-Q4_K_M.gguf",
    "X-UD-Q4_K_XL.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
    "mmproj-F32.gguf",
]
FOLDERS = [
    "Q4_K_M/part-00001-of-00002.gguf",
    "Q4_K_M/part-00002-of-00002.gguf",
    "Q8_0/part-00001-of-00002.gguf",
    "Q8_0/part-00002-of-00002.gguf",
]
IMATRIX_1 = ["X.i1-IQ2_XXS.gguf", "X.i1-Q4_K_M.gguf", "X.i1-Q6_K.gguf"]
QWEN = ["qwen-0.5b-fp16.gguf", "qwen-0.5b-q4_k_m.gguf", "qwen-0.5b-q4_0.gguf"]


@pytest.mark.parametrize(
    ("paths", "word", "expected"),
    [
        (BARTOWSKI, "Q4_K_M", "X-3B-Instruct-Q4_K_M.gguf"),
        (BARTOWSKI, "q4_k_m", "X-3B-Instruct-Q4_K_M.gguf"),
        (BARTOWSKI, "Q4_0", "X-3B-Instruct-Q4_0.gguf"),
        (BARTOWSKI, "Q4_0_4_4", "X-3B-Instruct-Q4_0_4_4.gguf"),
        (BARTOWSKI, "IQ3_M", "X-3B-Instruct-IQ3_M.gguf"),
        (BARTOWSKI, "F16", "X-3B-Instruct-f16.gguf"),
        (BARTOWSKI, "Q4_K", "X-3B-Instruct-Q4_K_M.gguf"),
        (BARTOWSKI, None, "X-3B-Instruct-Q4_K_M.gguf"),
        (UNSLOTH, "Q4_K_M", "X-Q4_K_M.gguf"),
        (UNSLOTH, "Q4_K_XL", "X-UD-Q4_K_XL.gguf"),
        (UNSLOTH, "UD-Q4_K_M", "X-UD-Q4_K_M.gguf"),
        (UNSLOTH, "IQ1_S", "X-UD-IQ1_S.gguf"),
        (UNSLOTH, "BF16", "BF16/X-BF16-00001-of-00002.gguf"),
        (FOLDERS, "Q8_0", "Q8_0/part-00001-of-00002.gguf"),
        (FOLDERS, None, "Q4_K_M/part-00001-of-00002.gguf"),
        (IMATRIX_1, None, "X.i1-Q4_K_M.gguf"),
        (IMATRIX_1, "i1-Q6_K", "X.i1-Q6_K.gguf"),
        ([*IMATRIX_1, "X.Q6_K.gguf"], "Q6_K", "X.Q6_K.gguf"),
        (QWEN, "F16", "qwen-0.5b-fp16.gguf"),
        (QWEN, None, "qwen-0.5b-q4_k_m.gguf"),
        (["phi_q4_0.gguf", "phi_q5_0.gguf"], "Q5_0", "phi_q5_0.gguf"),
        (["only-one.gguf", "mmproj-only.gguf"], None, "only-one.gguf"),
        (["x-Q8_0.gguf", "x-Q2_K.gguf"], None, "x-Q8_0.gguf"),
        (["x-Q4_K_M.gguf", "x-Q4_K_M-00001-of-00002.gguf", "x-Q4_K_M-00002-of-00002.gguf"], None, "x-Q4_K_M.gguf"),
        (["x-MTP-Q4_K_M.gguf", "mtp-x-Q4_K_M.gguf", "eagle3-x-Q4_K_M.gguf"], None, "x-MTP-Q4_K_M.gguf"),
    ],
)
def test_one_model_is_chosen(paths: list[str], word: str | None, expected: str) -> None:
    assert select(paths, quantization=word).model[0] == expected


def test_all_parts_of_a_split_model_come_in_order() -> None:
    parts = tuple(f"big/X-Q4_K_M-{number:05}-of-00011.gguf" for number in range(1, 12))

    assert select(reversed(parts)).model == parts
    assert select(parts, file=parts[4]).model == parts


@pytest.mark.parametrize("lost", [0, 3, 10])
def test_a_missing_part_is_named(lost: int) -> None:
    parts = [f"X-Q4_K_M-{number:05}-of-00011.gguf" for number in range(1, 12)]
    missing = parts.pop(lost)

    with pytest.raises(NothingFitsError, match=rf"'{missing}' is missing \(1 of 11 parts are\)"):
        select(parts)


@pytest.mark.parametrize(
    ("paths", "model", "projector"),
    [
        (UNSLOTH, "X-Q4_K_M.gguf", "mmproj-F16.gguf"),
        (UNSLOTH, "BF16/X-BF16-00001-of-00002.gguf", "mmproj-F16.gguf"),
        (["x.gguf", "mmproj-x-Q8_0.gguf", "mmproj-x-bf16.gguf"], "x.gguf", "mmproj-x-bf16.gguf"),
        (["x.gguf", "x.mmproj-fp16.gguf", "x.mmproj-f32.gguf"], "x.gguf", "x.mmproj-fp16.gguf"),
        (["a/x.gguf", "a/mmproj.gguf", "b/mmproj-F16.gguf", "mmproj-F16.gguf"], "a/x.gguf", "a/mmproj.gguf"),
        (["x.gguf", "b/mmproj-F16.gguf"], "x.gguf", None),
        (["mmproj-F16.gguf", "x.gguf"], "mmproj-F16.gguf", None),
    ],
)
def test_the_nearest_projector_comes_with_the_model(paths: list[str], model: str, projector: str | None) -> None:
    assert select(paths, file=model).projector == projector


def test_an_unquantized_file_stands_in_only_for_a_conversion() -> None:
    paths = ["x-F32.gguf", "x-F16.gguf", "x-Q8_0.gguf"]

    assert select(paths, quantization="Q4_K_M", convertible=True).model == ("x-F16.gguf",)
    assert select(paths, quantization="Q8_0", convertible=True).model == ("x-Q8_0.gguf",)
    with pytest.raises(NothingFitsError):
        select(paths, quantization="Q4_K_M")
    with pytest.raises(NothingFitsError):
        select(["x-Q8_0.gguf"], quantization="Q4_K_M", convertible=True)


@pytest.mark.parametrize(
    ("paths", "options", "error", "words"),
    [
        (BARTOWSKI, {"quantization": "Q5_K_M"}, NothingFitsError, ["Q5_K_M", "X-3B-Instruct-IQ3_M.gguf"]),
        (BARTOWSKI, {"file": "y.gguf"}, NothingFitsError, ["no file 'y.gguf'", "X-3B-Instruct-Q8_0.gguf"]),
        (BARTOWSKI, {"file": "README.md"}, NothingFitsError, ["no file 'README.md'"]),
        (BARTOWSKI, {"quantization": "XS"}, NothingFitsError, ["XS"]),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], {}, SelectionError, ["2 models", "a-Q4_K_M.gguf, b-Q4_K_M.gguf"]),
        (["a-Q2_K.gguf", "b-Q3_K_M.gguf"], {}, SelectionError, ["2 models", "Q4_K_M or Q8_0", "a-Q2_K.gguf"]),
        (["m-00001-of-00002.safetensors", "c.json"], {}, SelectionError, ["converted", "m-00001-of-00002.safetensors"]),
        (["c.json"], {}, NothingFitsError, ["no GGUF model", "c.json"]),
        (["mmproj-F16.gguf"], {}, NothingFitsError, ["no GGUF model", "mmproj-F16.gguf"]),
        ([], {}, NothingFitsError, ["there are no files"]),
    ],
)
def test_what_cannot_be_chosen_is_said(
    paths: list[str], options: dict[str, str], error: type[SelectionError], words: list[str]
) -> None:
    with pytest.raises(SelectionError) as caught:
        select(paths, **options)  # type: ignore[arg-type]

    assert type(caught.value) is error
    assert all(word in str(caught.value) for word in words)


def test_a_list_in_an_error_is_bounded() -> None:
    paths = [f"{'long' * 100}-{number}-Q2_K.gguf" for number in range(5000)]

    with pytest.raises(SelectionError, match="and 4980 more") as caught:
        select(paths)

    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    ("path", "shard"),
    [
        ("a/x-00002-of-00003.gguf", Shard("a/x", 2, 3)),
        ("x-00001-of-00001.GGUF", Shard("x", 1, 1)),
        ("x.gguf", Shard("x")),
        ("x-00004-of-00003.gguf", Shard("x-00004-of-00003")),
        ("x-00000-of-00003.gguf", Shard("x-00000-of-00003")),
        ("x-1-of-3.gguf", Shard("x-1-of-3")),
        ("x-00001-of-99999.gguf", Shard("x-00001-of-99999")),
        ("README.md", Shard("README.md")),
    ],
)
def test_names_of_parts(path: str, shard: Shard) -> None:
    assert parse_shard(path) == shard


def test_parts_of_two_splits_of_one_stem_stay_apart() -> None:
    found = group(["x-00001-of-00002.gguf", "x-00001-of-00001.gguf", "x-00002-of-00002.gguf"])

    assert [(item.count, len(item.paths), item.missing) for item in found] == [(1, 1, ()), (2, 2, ())]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40).map(lambda text: f"{text}.gguf"), max_size=8))
def test_every_list_gives_one_of_its_models_or_an_error(paths: list[str]) -> None:
    try:
        chosen = select(paths)
    except SelectionError:
        return
    assert set(chosen.model) <= set(paths)
    assert all(is_gguf(path) for path in chosen.model)
