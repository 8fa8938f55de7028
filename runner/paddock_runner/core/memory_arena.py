"""Where tensors of a step lie while it is computed: the allocator of ggml's graphs, in numbers only.

Used by `memory_graph`. The greatest end of any tensor is what llama.cpp logs as the size of the compute buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

ALIGNMENT = 32
_ENDLESS = 1 << 200


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [offset, offset + size) of the buffer."""

    offset: int
    size: int


class Arena:
    """Best fit among the holes, else behind the last tensor. `peak` is the size of the buffer in bytes."""

    def __init__(self) -> None:
        self._holes = [Span(0, _ENDLESS)]
        self.peak = 0

    def new(self, size: int) -> Span:
        """Place a tensor of `size` bytes."""
        size = _aligned(size)
        fitting = [hole for hole in self._holes[:-1] if hole.size >= size]
        hole = min(reversed(fitting), key=lambda one: one.size) if fitting else self._holes[-1]
        index = self._holes.index(hole)
        self._holes[index : index + 1] = [Span(hole.offset + size, hole.size - size)] if hole.size > size else []
        self.peak = max(self.peak, hole.offset + size)
        return Span(hole.offset, size)

    def free(self, *spans: Span) -> None:
        """Give tensors back; holes that touch become one."""
        for span in spans:
            if span.size:
                self._insert(span)

    def _insert(self, span: Span) -> None:
        holes: list[Span] = []
        for hole in sorted([*self._holes, span], key=lambda one: one.offset):
            if holes and holes[-1].offset + holes[-1].size == hole.offset:
                hole = Span(holes[-1].offset, holes.pop().size + hole.size)
            holes.append(hole)
        self._holes = holes


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
