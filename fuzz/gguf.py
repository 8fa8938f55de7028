"""Fuzz the GGUF check: `make fuzz` (FUZZ_SECONDS=600). Whatever the bytes, only a typed refusal may come out.

Bytes are read by ranges as those of a remote file, and what is accepted has to tell its facts as `show` does. atheris
watches the branches of the reader and its checks; a crash is written to the working folder as `crash-…`.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["paddock_runner.store"]):
    from paddock_runner.core.memory_facts import memory_facts
    from paddock_runner.store.errors import StoreError
    from paddock_runner.store.gguf import capabilities, details, read_gguf_from

MAX_READ_BYTES = 64 << 20


@dataclass(slots=True)
class Bytes:
    """A RangeReader over bytes that counts what is read, so that an endless reader is found."""

    data: bytes
    read: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, size: int) -> bytes:
        found = self.data[offset : offset + size]
        self.read += len(found)
        if self.read > MAX_READ_BYTES:
            raise RuntimeError(f"{self.read} bytes were read of a file of {self.size}")
        return found


def one(data: bytes) -> None:
    """Check one input. Raises whatever is not a typed refusal."""
    try:
        header = read_gguf_from(Bytes(data))
    except StoreError:
        return
    details(header)
    capabilities(header)
    memory_facts(header)


def main() -> None:
    """Arguments are libFuzzer's; without a corpus folder one is made from the seeds."""
    from fuzz.seeds import write

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        atheris.Setup([*sys.argv, "-timeout=20", "-rss_limit_mb=2048", folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
