"""Writes that go around the page cache. Called by `store.partial`.

A pull of 40 GB through the page cache costs a copy of every byte and drives out the weights of running models. Where
the file system can take whole blocks straight from memory (O_DIRECT, open(2)), large pieces go that way; where it
cannot, and for what is no whole block, the caller writes as usual.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Sequence

BLOCK = 4096
"""Offsets, lengths and memory must be multiples of it: what the disks in use ask for at most."""
LEAST = 64 << 10
_BUFFER = 1 << 20
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY)


class DirectWriter:
    """Writes to the file that the descriptor `handle` is open on. Thread-safe; `close` it before that one."""

    def __init__(self, handle: int) -> None:
        self._memory = threading.local()
        try:
            self._handle = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            self._handle = -1

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> bool:
        """Write `parts`, one after the other, at `offset`. False: nothing is promised, they must be written as usual.

        Raises OSError.
        """
        length = sum(map(len, parts))
        if self._handle < 0 or offset % BLOCK or length % BLOCK or length < LEAST:
            return False
        try:
            return self._write(offset, length, parts)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            return False

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _write(self, offset: int, length: int, parts: Sequence[bytes | memoryview]) -> bool:
        memory = self._aligned(length)
        at = 0
        for part in parts:
            memory[at : at + len(part)] = part
            at += len(part)
        # A full disk takes less; the ordinary way will find out how much and say so.
        return os.pwrite(self._handle, memory[:length], offset) == length

    def _aligned(self, length: int) -> memoryview:
        """Memory of this thread that begins at a page."""
        found: memoryview | None = getattr(self._memory, "view", None)
        if found is None or len(found) < length:
            found = self._memory.view = memoryview(mmap.mmap(-1, max(length, _BUFFER)))
        return found
