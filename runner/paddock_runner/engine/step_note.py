"""A page of memory in which the engine notes what it computes; the front reads it when the engine has died.

Written by the engine's loops and their prompt threads, read by `engine.process`. The page belongs to both processes,
so nothing has to be sent, and a process that is killed at any instruction leaves what it had noted. Numbers only.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable

from paddock_runner.core.crash import LastStep, Row

_SIZE = mmap.PAGESIZE
_PREPARING = struct.Struct("<Q")  # written by another thread than the rest, hence apart
_STEP = struct.Struct("<QI")  # number of the step, rows; no rows: none is in progress
_ROW = struct.Struct("<QII?")
_STEP_AT = _PREPARING.size
_ROWS_AT = _STEP_AT + _STEP.size
_MAX_ROWS = (_SIZE - _ROWS_AT) // _ROW.size


class StepNote:
    """One page. `create` makes one with a descriptor for the child, `open` is the child's, `close` lets it go."""

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        self._number = 0

    @classmethod
    def create(cls) -> tuple[StepNote, int]:
        """A page and its descriptor, which the caller closes. Raises OSError."""
        descriptor = os.memfd_create("paddock-step")
        try:
            os.ftruncate(descriptor, _SIZE)
            return cls(mmap.mmap(descriptor, _SIZE)), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(cls, descriptor: int) -> StepNote:
        """The page behind an inherited descriptor. Raises OSError, ValueError for one that is none."""
        return cls(mmap.mmap(descriptor, _SIZE))

    @classmethod
    def private(cls) -> StepNote:
        """A page that nobody else sees."""
        return cls(mmap.mmap(-1, _SIZE))

    @property
    def closed(self) -> bool:
        return self._page.closed

    def begin(self, rows: Iterable[Row]) -> None:
        """A step is about to run. What does not fit on the page (over a hundred rows) is left out."""
        self._number += 1
        count = 0
        for row in rows:
            if count == _MAX_ROWS:
                break
            _ROW.pack_into(self._page, _ROWS_AT + count * _ROW.size, row.handle, row.start, row.tokens, row.reading)
            count += 1
        # Last: a process that dies before this has not begun the step.
        _STEP.pack_into(self._page, _STEP_AT, self._number, count)

    def end(self) -> None:
        """The step is done. Not called for one that failed: then the process ends, and this is what it was at."""
        _STEP.pack_into(self._page, _STEP_AT, self._number, 0)

    def prepare(self, handle: int) -> None:
        """The prompt of this request is being tokenised; 0 when it is done."""
        _PREPARING.pack_into(self._page, 0, handle)

    def read(self) -> LastStep:
        """What the process was at. Never fails: the page of a mad process may hold anything."""
        (preparing,) = _PREPARING.unpack_from(self._page, 0)
        number, count = _STEP.unpack_from(self._page, _STEP_AT)
        places = (_ROWS_AT + index * _ROW.size for index in range(min(count, _MAX_ROWS)))
        return LastStep(number, tuple(Row(*_ROW.unpack_from(self._page, place)) for place in places), preparing)

    def close(self) -> None:
        self._page.close()
