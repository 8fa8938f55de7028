"""Ollama's `options` (and Modelfile PARAMETERs) as typed, bounded numbers, and their precedence. Pure.

Called by the API dialects and by `api/facts.py` for the parameters of the manifest and of the serve configuration. One
table holds every option with its type and closed range; load-time options are checked for type and otherwise ignored,
because no request reloads a model. Unknown names are ignored, as Ollama does: official clients still send removed ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from paddock_runner.core.generation import Sampling

Kind = Literal["float32", "integer", "boolean"]
Value = int | float | tuple[str, ...]
Options = dict[str, Value]

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_LOGIT_BIAS = 1024
INT32 = 2**31 - 1
INT64 = 2**63 - 1


class OptionError(ValueError):
    """An option of the wrong type or out of its range. `field` names it; the text says what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Rule:
    kind: Kind
    low: float = -INT64
    high: float = INT64


RULES: Mapping[str, Rule] = {
    "temperature": Rule("float32", 0, 100),
    "dynatemp_range": Rule("float32", 0, 100),
    "dynatemp_exponent": Rule("float32", 0, 100),
    "top_k": Rule("integer", -1, INT32),
    "top_p": Rule("float32", 0, 1),
    "min_p": Rule("float32", 0, 1),
    "typical_p": Rule("float32", 0, 1),
    "top_n_sigma": Rule("float32", -1, 100),
    "xtc_probability": Rule("float32", 0, 1),
    "xtc_threshold": Rule("float32", 0, 1),
    "repeat_last_n": Rule("integer", -1, INT32),
    "repeat_penalty": Rule("float32", 0.01, 100),
    "presence_penalty": Rule("float32", -100, 100),
    "frequency_penalty": Rule("float32", -100, 100),
    "dry_multiplier": Rule("float32", 0, 100),
    "dry_base": Rule("float32", 0, 100),
    "dry_allowed_length": Rule("integer", 0, INT32),
    "dry_penalty_last_n": Rule("integer", -1, INT32),
    "mirostat": Rule("integer", 0, 2),
    "mirostat_tau": Rule("float32", 0, 100),
    "mirostat_eta": Rule("float32", 0, 10),
    "seed": Rule("integer"),
    "num_predict": Rule("integer", -INT32, INT32),
    "num_ctx": Rule("integer", 0, INT32),
    "num_keep": Rule("integer", -1, INT32),
    "num_batch": Rule("integer", 0, INT32),
    "num_gpu": Rule("integer", -1, INT32),
    "main_gpu": Rule("integer", -1, INT32),
    "num_thread": Rule("integer", 0, INT32),
    "draft_num_predict": Rule("integer", 0, INT32),
    "use_mmap": Rule("boolean"),
}
_SAMPLING = frozenset(entry.name for entry in fields(Sampling)) - {"seed", "logit_bias"}


def parse_options(raw: Mapping[str, object]) -> Options:
    """The known options of `raw`; null and unknown names are left out. Raises OptionError."""
    parsed: Options = {}
    for name, value in raw.items():
        if value is None:
            continue
        if name == "stop":
            parsed["stop"] = parse_stop(value)
        elif name in RULES:
            parsed[name] = _number(name, value, RULES[name])
    return parsed


def _number(name: str, value: object, rule: Rule) -> int | float:
    if rule.kind == "boolean":
        if not isinstance(value, bool):
            raise OptionError(name, f'option "{name}" must be of type boolean')
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise OptionError(name, f'option "{name}" must be of type {rule.kind}')
    number = int(value) if rule.kind == "integer" else float(value)
    if not rule.low <= number <= rule.high:
        raise OptionError(name, f'option "{name}" must be between {rule.low:g} and {rule.high:g}')
    return number


def _finite(value: float) -> bool:
    return abs(value) <= INT64 if isinstance(value, int) else math.isfinite(value)


def parse_stop(value: object) -> tuple[str, ...]:
    """Stop strings: a list (or, for OpenAI, one string) of at most 16 of 1…256 bytes. Raises OptionError."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise OptionError("stop", 'option "stop" must be of an array of strings')
    if len(items) > MAX_STOPS:
        raise OptionError("stop", f"stop: {len(items)} strings are given, at most {MAX_STOPS} are allowed")
    if any(not 0 < len(item.encode()) <= MAX_STOP_BYTES for item in items):
        raise OptionError("stop", f"stop: each string must have between 1 and {MAX_STOP_BYTES} bytes")
    return tuple(items)


def merge(*layers: Options) -> Options:
    """One set of options; an earlier layer wins over a later one (request, spec, params layer)."""
    merged: Options = {}
    for layer in reversed(layers):
        merged.update(layer)
    return merged


def to_sampling(options: Options, logit_bias: tuple[tuple[int, float], ...] = ()) -> Sampling:
    """The sampler parameters; what `options` does not say has Ollama's default. A negative seed means random."""
    chosen = {name: value for name, value in options.items() if name in _SAMPLING}
    seed = options.get("seed", -1)
    usable = isinstance(seed, int) and seed >= 0
    return replace(Sampling(), **chosen, seed=int(seed) & 0xFFFFFFFF if usable else None, logit_bias=logit_bias)  # type: ignore[arg-type]


def stops(options: Options) -> tuple[str, ...]:
    """The stop strings that `options` holds, none if it holds none."""
    value = options.get("stop", ())
    return value if isinstance(value, tuple) else ()


def integer(options: Options, name: str, default: int) -> int:
    """The integer option `name`, or `default` when it is absent."""
    value = options.get(name, default)
    return value if isinstance(value, int) else default
