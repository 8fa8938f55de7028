"""What `spec.quantization` asks of a model that a source brought: nothing, a conversion, or what cannot be had.

Called by `plan_conversion`. The names are those of paddock_runner/core/quantization.py, which converts; a test keeps
both equal.
"""

from __future__ import annotations

UNQUANTIZED = ("F32", "F16", "BF16")
TYPES = (
    *UNQUANTIZED,
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"),
    *("Q5_K_S", "Q5_K_M", "Q6_K", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"),
)
"""What llama.cpp makes without an importance matrix."""
_SAME = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


class ImpossibleConversionError(ValueError):
    """The model has another type and cannot become the wanted one; the message says what can be done."""


def normal(word: str) -> str:
    """The one spelling of a type: `Q4_K` is `Q4_K_M`."""
    upper = word.upper()
    return _SAME.get(upper, upper)


def conversion(wanted: str, found: str, *, chosen: bool) -> str:
    """The type to convert to, empty if the model is to be used as it is.

    `found` is the type that its header tells ("" or `unknown` if it does not). `chosen`: the source took the file by
    the word `wanted`, which counts more than what the header calls itself. Raises ImpossibleConversionError.
    """
    want, have = normal(wanted), normal(found)
    if want == have:
        return ""
    if have in (*UNQUANTIZED, "", "UNKNOWN") and want in TYPES:
        return want
    if chosen and have not in UNQUANTIZED:
        return ""
    if want not in TYPES:
        raise ImpossibleConversionError(
            f"spec.quantization: nothing is converted to {want} (it needs an importance matrix, or is made from other "
            f"weights); name a source that has it; what is converted: {', '.join(TYPES)}"
        )
    raise ImpossibleConversionError(
        f"spec.quantization: a model of {have} cannot become {want}: only {', '.join(UNQUANTIZED)} are converted; "
        "name the original file, or remove quantization"
    )
