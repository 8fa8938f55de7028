"""Writes and reads that go around the page cache, and memory for them. Called by `store.partial`.

A pull of 40 GB through the page cache costs a copy of every byte and drives out the weights of running models. Where
the file system can take whole blocks straight from memory (O_DIRECT, open(2)), large pieces go that way; where it
cannot, and for what is no whole block, the caller writes as usual.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import weakref
from collections.abc import Sequence

BLOCK = 4096
"""Offsets, lengths and memory must be multiples of it: what the disks in use ask for at most."""
LEAST = 64 << 10
_BUFFER = 1 << 20
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY)


class Buffers:
    """Pieces of `size` bytes (a multiple of BLOCK) of memory that begin at a page, used again. Thread-safe."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[mmap.mmap] = []

    def take(self) -> memoryview:
        """A piece for writing. It comes back by itself when the last view into it is gone."""
        memory = self._free.pop() if self._free else mmap.mmap(-1, self.size)
        # Every view, and every slice of one, keeps this object alive, so its end is the end of them all.
        owner = (ctypes.c_char * self.size).from_buffer(memory)
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return memoryview(owner).cast("B")


class DirectFile:
    """The file that the descriptor `handle` is open on. Thread-safe; `close` it before that one."""

    def __init__(self, handle: int) -> None:
        self._memory = threading.local()
        try:
            self._handle = os.open(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            self._handle = -1

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> bool:
        """Write `parts`, one after the other, at `offset`. False: nothing is promised, they must be written as usual.

        Raises OSError.
        """
        length = sum(map(len, parts))
        if not self._fits(offset, length):
            return False
        try:
            return self._write(offset, length, parts)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            return False

    def read(self, offset: int, length: int) -> memoryview | None:
        """Bytes `offset` to `offset + length`, good until this thread's next call. None: read them as usual.

        Raises OSError.
        """
        if not self._fits(offset, length):
            return None
        memory = self._aligned(length)[:length]
        return memory if os.preadv(self._handle, [memory], offset) == length else None

    def _fits(self, offset: int, length: int) -> bool:
        return self._handle >= 0 and not offset % BLOCK and not length % BLOCK and length >= LEAST

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _write(self, offset: int, length: int, parts: Sequence[bytes | memoryview]) -> bool:
        memory = parts[0] if len(parts) == 1 and _is_aligned(parts[0]) else self._copied(length, parts)
        # A full disk takes less; the ordinary way will find out how much and say so.
        return os.pwrite(self._handle, memory, offset) == length

    def _copied(self, length: int, parts: Sequence[bytes | memoryview]) -> memoryview:
        memory = self._aligned(length)
        at = 0
        for part in parts:
            memory[at : at + len(part)] = part
            at += len(part)
        return memory[:length]

    def _aligned(self, length: int) -> memoryview:
        """Memory of this thread that begins at a page."""
        found: memoryview | None = getattr(self._memory, "view", None)
        if found is None or len(found) < length:
            found = self._memory.view = memoryview(mmap.mmap(-1, max(length, _BUFFER)))
        return found


def _is_aligned(part: bytes | memoryview) -> bool:
    if isinstance(part, bytes) or part.readonly:
        return False
    return ctypes.addressof(ctypes.c_char.from_buffer(part)) % BLOCK == 0
