"""Whole blocks around the page cache, and all that cannot go that way."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock_runner.core.digest import Digest
from paddock_runner.store.direct import BLOCK, LEAST, Buffers, DirectFile
from paddock_runner.store.errors import NoSpaceError
from paddock_runner.store.partial import PartialBlob

SIZE = 3 * LEAST + 77
DATA = random.Random(5).randbytes(SIZE)


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    yield opened
    os.close(opened)


@pytest.fixture
def writer(handle: int) -> Iterator[DirectFile]:
    made = DirectFile(handle)
    yield made
    made.close()


def test_whole_blocks_from_parts_of_any_length(handle: int, writer: DirectFile) -> None:
    if not writer.write(0, [bytes(LEAST)]):
        pytest.skip("this file system takes no direct writes")
    parts = [DATA[:1], memoryview(DATA)[1:100_001], DATA[100_001 : 2 * LEAST]]
    assert writer.write(BLOCK, parts)
    assert os.pread(handle, SIZE, BLOCK) == DATA[: 2 * LEAST]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, LEAST - BLOCK), (0, LEAST + 1), (1, LEAST), (BLOCK - 1, LEAST), (0, 0)]
)
def test_what_is_no_whole_block_or_small_is_left_to_the_caller(
    handle: int, writer: DirectFile, offset: int, length: int
) -> None:
    assert not writer.write(offset, [DATA[:length]])
    assert os.fstat(handle).st_size == 0


def test_a_file_system_that_refuses_is_written_to_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "pwrite", refuse)
    download(tmp_path)


def test_a_file_system_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = os.open

    def refuse(path: object, flags: int, *more: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return genuine(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)
    download(tmp_path)


def test_a_full_disk_in_the_middle_of_a_piece_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: len(data) // 2)
    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(NoSpaceError):
        download(tmp_path)


def test_an_error_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpaceError):
        download(tmp_path)


def download(folder: Path) -> None:
    """Pieces out of order, some of whole blocks; then all bytes are there and right."""
    digest = Digest.of(DATA)
    with PartialBlob(folder, digest, SIZE) as partial:
        partial.begin(SIZE)
        for start, end in ((2 * LEAST, SIZE), (0, LEAST), (LEAST, 2 * LEAST)):
            partial.write(start, [DATA[start:end]])
            partial.advance()
        assert partial.complete
        assert partial.seal(None) == digest
        assert partial.path.read_bytes() == DATA


def test_a_download_of_whole_blocks(tmp_path: Path) -> None:
    download(tmp_path)


def test_memory_comes_back_when_its_last_slice_is_gone() -> None:
    buffers = Buffers(2 * BLOCK)
    first = buffers.take()
    first[:4] = b"kept"
    part = first[2:4]
    del first
    other = buffers.take()
    other[:4] = b"lost"
    assert bytes(part) == b"pt"
    del part
    assert bytes(buffers.take()[:4]) == b"kept", "the piece that nobody looks at any more"


def test_aligned_memory_is_written_and_read_as_it_is(
    handle: int, writer: DirectFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not writer.write(0, [bytes(LEAST)]):
        pytest.skip("this file system takes no direct writes")
    memory = Buffers(2 * LEAST).take()
    memory[:] = DATA[: 2 * LEAST]
    monkeypatch.setattr(DirectFile, "_copied", None)
    assert writer.write(BLOCK, [memory])
    found = writer.read(BLOCK + LEAST, LEAST)
    assert found is not None
    assert bytes(found) == DATA[LEAST : 2 * LEAST]
    assert writer.read(BLOCK, 2 * LEAST + BLOCK) is None, "the file ends before"
    assert writer.read(1, LEAST) is None
