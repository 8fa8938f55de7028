"""Disks that are full, broken or closed: a typed error, and all that came is there when the disk is well again."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.support.downloads import CHUNK, Pull
from tests.support.fault_server import FaultServer

from paddock_runner.store import files, partial
from paddock_runner.store.direct import DirectFile
from paddock_runner.store.errors import CacheUnusableError, NoSpaceError, ReadOnlyError
from paddock_runner.store.store import Store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 4 MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def pull(store: Store, server: FaultServer, connections: int = 2) -> Pull:
    return Pull(store, server.url, server.digest, len(server.data), connections=connections)


@pytest.mark.parametrize("seed", range(10))
async def test_a_disk_that_fills_up_keeps_what_came(
    server: FaultServer, store: Store, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = random.Random(seed).randrange(len(server.data))

    def write(handle: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
        nonlocal left
        count = sum(len(part) for part in parts)
        if count > left:
            files.write_at(handle, [b"".join(parts)[:left]], offset)
            left = 0
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= count
        files.write_at(handle, parts, offset)

    with monkeypatch.context() as patch:
        patch.setattr(partial, "write_at", write)
        patch.setattr(DirectFile, "write", lambda *_: False)
        with pytest.raises(NoSpaceError) as caught:
            await pull(store, server).run()
    assert caught.value.retryable
    assert not store.blob_path(server.digest).exists()
    with store.resumable(server.digest, len(server.data)) as found:
        have = found.done
        found.advance()
        assert found.done == have
    sent = server.sent
    await pull(store, server, 1).run()
    assert server.sent - sent <= len(server.data) - have
    assert store.blob_path(server.digest).read_bytes() == server.data


async def test_a_disk_that_is_really_full(small_disk: Path, server: FaultServer) -> None:
    store = Store(small_disk / "models")
    ballast = small_disk / "ballast"
    server.pause_at = 12 * CHUNK

    def fill(*_: object) -> None:
        if not ballast.exists():
            free = os.statvfs(small_disk)
            ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - 2 * CHUNK))
            server.pause_at = None
            server.go.set()

    asked = pull(store, server, 1)
    asked._note = fill  # type: ignore[method-assign]
    with pytest.raises(NoSpaceError):
        await asked.run()
    assert {path.name for path in (store.path / "blobs").iterdir()} == {
        f"partial-{server.digest.hex}",
        f"partial-{server.digest.hex}.journal",
    }
    ballast.unlink()
    sent = server.sent
    await pull(store, server, 1).run()
    assert server.sent - sent < len(server.data)
    assert store.blob_path(server.digest).read_bytes() == server.data


async def test_a_disk_that_is_too_small_is_not_filled(small_disk: Path, server: FaultServer) -> None:
    (small_disk / "ballast").write_bytes(b"\0" * (3 << 20))
    with pytest.raises(NoSpaceError, match="has only"):
        await pull(Store(small_disk / "models"), server).run()
    assert server.heads == []


def test_a_read_only_disk(small_disk: Path, server: FaultServer) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ReadOnlyError):
        asyncio.run(pull(Store(small_disk / "models"), server).run())
    assert server.heads == []


@pytest.mark.parametrize("name", ["pwritev", "fdatasync", "fsync"])
async def test_an_input_output_error_is_typed(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    server.rate = 8_000_000
    with monkeypatch.context() as patch:
        patch.setattr(os, name, broken)
        with pytest.raises(CacheUnusableError, match="Input/output error"):
            await pull(store, server).run()
    assert not store.blob_path(server.digest).exists()
    await pull(store, server).run()
    assert store.blob_path(server.digest).read_bytes() == server.data
