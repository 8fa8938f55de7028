"""Which files -f means, and what reading one can say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paddock_operator.executors.local import files
from paddock_operator.executors.local.yamlread import ManifestError


def test_folders_are_sorted_filtered_and_flat(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "d.txt", ".hidden.yaml"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "deeper.yaml").mkdir()
    (tmp_path / "deeper.yaml" / "e.yaml").write_text("{}")
    assert [path.name for path in files.expand([str(tmp_path)])] == ["a.yml", "b.yaml", "c.json"]


def test_arguments_keep_their_order_and_a_file_counts_once(tmp_path: Path) -> None:
    for name in ("a.yaml", "z.yaml"):
        (tmp_path / name).write_text("{}")
    found = files.expand([str(tmp_path / "z.yaml"), str(tmp_path), str(tmp_path / "." / "a.yaml")])
    assert [path.name for path in found] == ["z.yaml", "a.yaml"]


def test_a_file_that_is_named_needs_no_suffix(tmp_path: Path) -> None:
    (tmp_path / "manifest").write_text("{}")
    assert files.expand([str(tmp_path / "manifest")]) == [tmp_path / "manifest"]


def test_too_many_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 2)
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text("{}")
    with pytest.raises(ManifestError, match="3 manifests, the limit is 2"):
        files.expand([str(tmp_path)])


def test_text_and_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    first = files.read(path)
    assert (first.content, first.problem) == ("a: 1\n", "")
    path.write_text("a: 2\n")
    assert files.read(path).fingerprint != first.fingerprint


def test_missing_file_says_so(tmp_path: Path) -> None:
    assert files.read(tmp_path / "none.yaml").problem == "No such file or directory"


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    assert files.read(tmp_path / "a.yaml").problem == "not UTF-8 at line 2"


def test_too_large(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    assert files.read(tmp_path / "a.yaml").problem == "larger than 4 MiB; split the file"
    assert files.from_stdin(b" " * (files.MAX_FILE_BYTES + 1)).problem == "larger than 4 MiB; split the file"


def test_a_pipe_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    assert files.read(tmp_path / "a.yaml").problem == "not a regular file"


def test_stdin_is_a_file_of_its_own() -> None:
    assert files.from_stdin(b"a: 1\n").content == "a: 1\n"
    assert files.from_stdin(b"a: \xff\n").problem == "not UTF-8 at line 1"
