"""Checked access to the numbers among the entries of a GGUF header, by the names of its architecture.

Used by the checks `gguf_parameters`, `gguf_architectures` and `gguf_vocabulary`.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddock_runner.store.errors import InvalidGGUFError
from paddock_runner.store.gguf_reader import Entry
from paddock_runner.store.gguf_tables import ARRAY, INT32, UINT32

MAX_LAYERS = 512


@dataclass(frozen=True, slots=True)
class Parameters:
    """The entries of one model with the names of its architecture."""

    entries: dict[str, Entry]
    architecture: str

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def entry(self, name: str) -> Entry | None:
        return self.entries.get(self.key(name))

    def number(self, name: str, low: int, high: int, required: bool = False) -> int | None:
        """An unsigned 32-bit value within low…high, None when absent and not required."""
        return number(self.entries, self.key(name), low, high, required)

    def each(self, name: str, low: int, high: int, layers: int) -> tuple[int, ...]:
        """One number per layer from a scalar or an array (whose elements may be 0); empty when absent."""
        entry = self.entry(name)
        if entry is None:
            return ()
        if entry.value_type != ARRAY:
            return (self.number(name, low, high) or 0,) * layers
        values = entry.value if isinstance(entry.value, tuple) else ()
        if entry.item_type not in (UINT32, INT32) or len(values) != layers:
            found = f"{entry.length} elements of type {entry.item_type}"
            raise InvalidGGUFError(
                self.key(name), f"must be a number or an array of {layers} numbers, one per layer; it has {found}"
            )
        for value in values:
            if not isinstance(value, int) or not 0 <= value <= high:
                raise InvalidGGUFError(self.key(name), f"the element {value} is out of range, allowed are 0 to {high}")
        return tuple(int(value) for value in values)

    def plain(self, name: str) -> int | None:
        """The whole number stored under `name`, of any width; None for anything else."""
        entry = self.entry(name)
        return entry.value if entry is not None and type(entry.value) is int else None

    def refuse(self, name: str, problem: str) -> InvalidGGUFError:
        return InvalidGGUFError(self.key(name), problem)


def number(entries: dict[str, Entry], key: str, low: int, high: int, required: bool = False) -> int | None:
    """An unsigned 32-bit value within low…high, None when absent and not required. Raises InvalidGGUFError."""
    entry = entries.get(key)
    if entry is None:
        if required:
            raise InvalidGGUFError(key, "is missing")
        return None
    if entry.value_type != UINT32 or not isinstance(entry.value, int):
        raise InvalidGGUFError(key, "must be an unsigned 32-bit number")
    if not low <= entry.value <= high:
        raise InvalidGGUFError(key, f"{entry.value} is out of range, allowed are {low} to {high}")
    return entry.value
