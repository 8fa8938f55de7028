"""Which types a model can be converted to, from what, and under which name the result is kept. Pure.

Used by `commands.convert` and `engine.quantize`. The numbers are those of `enum llama_ftype` in llama.cpp's
`include/llama.h`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from paddock_runner.core.digest import Digest
from paddock_runner.core.names import ModelName

CONVERTED_HOST = "converted.paddock.dev"

FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "BF16": 32,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q8_0": 7,
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ3_S": 26,
    "IQ3_M": 27,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}
_SAME = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_UNQUANTIZED = ("F32", "F16", "BF16")
_STEP = re.compile(r"\[\s*(\d{1,6})/\s*(\d{1,6})\]")


class InvalidQuantizationError(ValueError):
    """The type is unknown or the model cannot be converted to it; the message says what can be done."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """`source` is the digest of a manifest, `type` a key of FILE_TYPES, `version` that of the converting library."""

    source: Digest
    type: str
    version: str

    @property
    def key(self) -> Digest:
        """Equal for conversions that give the same bytes."""
        return Digest.of(f"{self.source} {self.type} {self.version}".encode())

    @property
    def name(self) -> ModelName:
        """What the result is called in the store."""
        return ModelName(host=CONVERTED_HOST, namespace="sha256", model=self.key.hex)


def parse_type(text: object) -> str:
    """The type that people mean, in capitals. Raises InvalidQuantizationError that lists the known ones."""
    word = text.upper() if isinstance(text, str) else ""
    word = _SAME.get(word, word)
    if word not in FILE_TYPES:
        raise InvalidQuantizationError(
            f"quantization: {str(text)[:40]!r} is none of {', '.join(FILE_TYPES)} "
            "(smaller IQ types need an importance matrix, so take a file that was made with one)"
        )
    return word


def check_source(wanted: str, types: Iterable[str]) -> None:
    """Raise InvalidQuantizationError unless all tensor `types` are F32, F16 or BF16: what was rounded is not again."""
    rounded = sorted(set(types) - set(_UNQUANTIZED))
    if rounded:
        raise InvalidQuantizationError(
            f"quantization: a model of {', '.join(rounded)[:80]} cannot become {wanted}: only F32, F16 and BF16 are "
            "converted; take the original file, or remove quantization"
        )


def parse_step(line: str) -> tuple[int, int] | None:
    """(tensors done before this one, all tensors) of a line of llama.cpp's log, None for any other line."""
    match = _STEP.search(line)
    if match is None:
        return None
    number, total = int(match[1]), int(match[2])
    return (number - 1, total) if 1 <= number <= total else None
