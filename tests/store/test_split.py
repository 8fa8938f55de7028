"""Split GGUF files: found by their names, judged by their headers, created, shown and loaded as one model."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from tests.support.gguf_maker import make_gguf

from paddock_runner.core.modelfile import parse_modelfile
from paddock_runner.core.names import ModelName
from paddock_runner.store.create import assemble, create
from paddock_runner.store.errors import InvalidGGUFError, InvalidModelError, NotFoundError, StoreError
from paddock_runner.store.gguf import GGUFHeader, read_gguf
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.model import load_model
from paddock_runner.store.show import show, tags
from paddock_runner.store.split import join_headers, model_files, read_parts
from paddock_runner.store.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one model in three parts."""
    made = tmp_path / "parts"
    made.mkdir()
    make_gguf(made / "tiny.gguf", split_tensors=5)
    return made


@pytest.fixture
def parts(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir())
    assert len(found) == 3
    return found


def make(store: Store, folder: Path, text: str, name: str = "x") -> StoredManifest:
    return create(store, ModelName.parse(name), parse_modelfile(text), folder)


def test_the_parts_tell_together_what_the_whole_file_tells(parts: list[Path], gguf_file: Path) -> None:
    whole, joined = read_gguf(gguf_file), read_parts(parts)
    assert joined.parameter_count == whole.parameter_count
    assert {tensor.name for tensor in joined.tensors} == {tensor.name for tensor in whole.tensors}
    assert joined.file_size == sum(path.stat().st_size for path in parts)
    assert (joined.architecture, joined.vocab_size) == (whole.architecture, whole.vocab_size)


def test_a_part_alone_is_no_model(parts: list[Path]) -> None:
    for part in parts:
        with pytest.raises(StoreError):
            read_gguf(part)
        with pytest.raises(InvalidGGUFError, match="one of 3 parts"):
            read_parts([part])


def headers(parts: list[Path]) -> list[GGUFHeader]:
    return [read_gguf(path, part=True) for path in parts]


def test_parts_that_do_not_fit_together(parts: list[Path], gguf_file: Path, tmp_path: Path) -> None:
    first, second, third = headers(parts)
    whole = read_gguf(gguf_file)
    foreign = dataclasses.replace(second, architecture="qwen2")
    twice = dataclasses.replace(third, tensors=(*third.tensors[:-1], first.tensors[0]))
    fewer = dataclasses.replace(third, tensors=third.tensors[:-1])
    adapter = dataclasses.replace(second, kind="adapter")
    for wrong, match in [
        ([first, third, second], "part 3, but it stands in the place of part 2"),
        ([first, second], "has 2 files"),
        ([second, first, third], "place of part 1"),
        ([first, second, third, third], "has 4 files"),
        ([first, whole, third], "split.count"),
        ([whole, whole], "split.count"),
        ([first, foreign, third], "of qwen2, the first of llama"),
        ([first, second, twice], "appears in two parts"),
        ([first, second, fewer], "split.tensors.count"),
        ([first, adapter, third], "a part of a model is needed"),
    ]:
        with pytest.raises(InvalidGGUFError, match=match):
            join_headers(wrong)


def test_files_are_found_by_the_first_part_or_their_folder(parts: list[Path], folder: Path, gguf_file: Path) -> None:
    (folder / "README.md").write_text("x")
    assert model_files(parts[0]) == model_files(folder) == tuple(parts)
    assert model_files(gguf_file) == (gguf_file,)
    with pytest.raises(InvalidModelError, match="part 2 of 3; give the first part"):
        model_files(parts[1])
    parts[2].rename(folder / "elsewhere")
    for path in (parts[0], folder):
        with pytest.raises(NotFoundError, match="of 3 parts these are missing: 3"):
            model_files(path)
    with pytest.raises(NotFoundError, match="does not exist"):
        model_files(folder / "nope.gguf")
    (folder / "empty").mkdir()
    with pytest.raises(InvalidModelError, match="without a GGUF file"):
        model_files(folder / "empty")


@pytest.mark.parametrize("value", ["./parts", "parts/tiny-00001-of-00003.gguf"])
def test_create_takes_all_parts(store: Store, folder: Path, parts: list[Path], gguf_file: Path, value: str) -> None:
    stored = make(store, folder.parent, f"FROM {value}\nSYSTEM hi")
    assert [layer.kind for layer in stored.manifest.layers] == ["model", "model", "model", "system"]
    files = load_model(store, stored.digest)
    assert [path.read_bytes() for path in files.split_paths] == [path.read_bytes() for path in parts]
    assert files.model_path == files.split_paths[0]
    whole = load_model(store, make(store, gguf_file.parent, "FROM tiny.gguf", "whole"))
    assert whole.split_paths == ()
    assert files.details == whole.details
    assert files.config["model_type"] == whole.config["model_type"]


def test_what_show_says_makes_the_same_model_again(store: Store, folder: Path) -> None:
    stored = make(store, folder.parent, "FROM ./parts\nSYSTEM hi")
    shown = show(store, stored.name)
    assert shown["model_info"]["general.parameter_count"] == load_model(store, stored).header.parameter_count
    assert make(store, folder, shown["modelfile"], "again").digest == stored.digest
    assert make(store, folder, "FROM x", "derived").digest == stored.digest
    assert tags(store)["models"][0]["capabilities"] == ["completion"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("FROM ./parts\nFROM ./parts", "only one FROM may be a model"),
        ("FROM parts/tiny-00003-of-00003.gguf", "give the first part"),
        ("FROM base\nFROM ./parts", "only one FROM"),
        ("FROM ./alone.gguf", "one of 3 parts"),
        ("FROM base\nFROM ./second.gguf", "split.count"),
        ("FROM ./several", "only one FROM may be a model"),
    ],
)
def test_what_is_no_model_is_not_created(store: Store, folder: Path, parts: list[Path], text: str, match: str) -> None:
    top = folder.parent
    make_gguf(top / "whole.gguf")
    make(store, top, "FROM ./whole.gguf", "base")
    shutil.copy(parts[0], top / "alone.gguf")
    shutil.copy(parts[1], top / "second.gguf")
    (top / "several").mkdir()
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(top / "whole.gguf", top / "several" / name)
    with pytest.raises((InvalidModelError, InvalidGGUFError), match=match):
        make(store, top, text)
    assert [str(item.name) for item in store.list()] == ["base:latest"]


def test_parts_that_are_in_the_store_are_put_together(store: Store, folder: Path) -> None:
    layers = make(store, folder.parent, "FROM ./parts").manifest.layers
    assert load_model(store, assemble(store, ModelName("a"), layers)).digest == store.manifest(ModelName("x")).digest
    for wrong in (layers[:2], (layers[1], layers[0], layers[2])):
        with pytest.raises(InvalidGGUFError, match="split"):
            assemble(store, ModelName("b"), wrong)
    with pytest.raises(InvalidModelError, match="no GGUF model"):
        assemble(store, ModelName("b"), [])
