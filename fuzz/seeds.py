"""The corpus of `fuzz.gguf`, made by programs: valid files of several shapes, and the hand-laid ones of the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.store.raw_gguf import Raw, whole
from tests.support.gguf_maker import make_gguf

MAX_SEED_BYTES = 96 * 1024
"""Headers come first; what follows them is only a size to the reader."""


def seeds() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every seed."""
    with tempfile.TemporaryDirectory() as folder:
        for tokenizer in ("bpe", "spm"):
            for pooling in (None, 1):
                path = make_gguf(Path(folder) / "seed.gguf", tokenizer=tokenizer, pooling_type=pooling, vocab=300)
                yield f"{tokenizer}-{pooling}", path.read_bytes()[:MAX_SEED_BYTES]
    yield "smallest", Raw().build()
    for experts in (0, 2):
        yield f"whole-{experts}", whole(experts=experts).build()


def write(folder: Path) -> None:
    """Write the corpus into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (folder / name).write_bytes(data)
