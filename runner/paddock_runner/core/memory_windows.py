"""Which layers look back only so far, and which have no keys of their own: per architecture, as llama.cpp decides it.

Used by `memory_facts`. A file says the window; where it does not say which layers have it, the architecture does.
"""

from __future__ import annotations

from paddock_runner.core.memory_blocks import Numbers

WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"

# Architecture: (every so many layers one sees all cells, that one is the first of them).
_PERIODS = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma-embedding": (6, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "modern-bert": (3, True),
    "muse-glimmer": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
_WINDOWS = {"gemma2": 4096, "exaone4": 4096, "exaone-moe": 128, "llama4": 8192, "smallthinker": 4096}
_LISTED = frozenset({"gemma4", "granite_swa", "maple", "mimo2", "spark2_5", "step35", "dots3note"})
_EXAONE_LAYERS = 64
_GEMMA3N_LAYERS = 20


def window_of(numbers: Numbers, layer: int) -> int:
    """Cells that the layer looks back, 0 for all."""
    architecture = numbers.architecture
    window = numbers.of(WINDOW, layer, _WINDOWS.get(architecture, 0))
    if architecture == "llama4" and window:
        window = _WINDOWS[architecture]
    if not window or (architecture == "exaone4" and numbers.of("block_count") != _EXAONE_LAYERS):
        return 0
    return window if _is_windowed(numbers, layer) else 0


def _is_windowed(numbers: Numbers, layer: int) -> bool:
    if numbers.architecture in ("lfm2", "lfm2moe"):
        return True
    known = numbers.architecture in _PERIODS or numbers.architecture in _LISTED
    if known and numbers.each(PATTERN):
        return bool(numbers.of(PATTERN, layer))
    if numbers.architecture not in _PERIODS:
        return False
    period, dense_first = _PERIODS[numbers.architecture]
    period = numbers.of(PATTERN, 0, period)
    if not period:
        return True
    return layer % period != (0 if dense_first else period - 1)


def caching_layers(numbers: Numbers) -> int:
    """How many layers, from the first, have keys and values of their own; the others read those or are not computed."""
    layers = numbers.of("block_count")
    if numbers.architecture == "gemma3n":
        return min(layers, _GEMMA3N_LAYERS)
    shared = numbers.of("attention.shared_kv_layers") if numbers.architecture == "gemma4" else 0
    return max(layers - max(shared, numbers.of("nextn_predict_layers")), 0)
