"""Kubernetes quantities to numbers, and bytes to words. Called by the plans."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_FACTORS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(1000),
    "M": Decimal(1000) ** 2,
    "G": Decimal(1000) ** 3,
    "T": Decimal(1000) ** 4,
    "Ki": Decimal(1024),
    "Mi": Decimal(1024) ** 2,
    "Gi": Decimal(1024) ** 3,
    "Ti": Decimal(1024) ** 4,
}


def quantity(value: int | str) -> Decimal:
    """`6Gi`, `1500m`, `2` as a number. Raises ValueError if it is no quantity."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a quantity such as 6Gi, 1500m or 2")
    return Decimal(match[1]) * _FACTORS[match[2] or ""]


def whole(value: int | str) -> int:
    """A quantity rounded up to a whole number (bytes, processors). Raises ValueError."""
    return math.ceil(quantity(value))


def size_text(size: int) -> str:
    """Bytes for people, decimal as registries show them: `98.4 MB`."""
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{size} B" if unit == "B" else f"{number:.1f} {unit}"
