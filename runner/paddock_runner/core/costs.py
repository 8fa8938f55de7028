"""Learned milliseconds of a step, so that it can be filled without exceeding its bound. Called by `core.scheduler`.

A step costs (decoding sequences x cost of one) + (prefill tokens x cost of one). Both costs depend on depth, because
attention walks the cache; the decode cost also on how many decode together, as they share each pass over the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["decode", "prefill"]
Key = tuple[Kind, int, int]

_DEPTH_UNIT = 256
# A step that was slower than expected counts at once, a faster one slowly: the bound matters more than the last token.
_RISE = 0.7
_FALL = 0.2
# What an untried depth or width may cost more than the nearest tried one.
_CAUTION = 1.5


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What one step did: tokens and the deepest position of each kind."""

    decode_tokens: int
    decode_depth: int
    prefill_tokens: int
    prefill_depth: int


class CostModel:
    """Exponential means of milliseconds per token by kind, width and depth.

    Before the first observations it answers `first_ms` for every token of either kind: the time of one token decoded
    alone, which no token of a batch exceeds.
    """

    def __init__(self, first_ms: float) -> None:
        self._first_ms = first_ms
        self._means: dict[Key, float] = {}

    def decode_ms(self, tokens: int, depth: int) -> float:
        """Expected milliseconds of `tokens` sequences decoding one token each, the deepest at `depth`."""
        return tokens * self._mean(_key("decode", tokens, depth)) if tokens else 0.0

    def prefill_ms_per_token(self, depth: int) -> float:
        """Expected milliseconds of one prompt token whose chunk begins at `depth`."""
        return self._mean(_key("prefill", 1, depth))

    def observe(self, step: StepCosts, milliseconds: float) -> None:
        """Learn from a step. In a mixed step the decode part is taken as expected and the prefill part learns."""
        if step.prefill_tokens:
            rest = milliseconds - self.decode_ms(step.decode_tokens, step.decode_depth)
            self._learn(_key("prefill", 1, step.prefill_depth), max(rest, 0.1 * milliseconds) / step.prefill_tokens)
        elif step.decode_tokens:
            self._learn(_key("decode", step.decode_tokens, step.decode_depth), milliseconds / step.decode_tokens)

    def _learn(self, key: Key, value: float) -> None:
        mean = self._means.get(key)
        if mean is None:
            self._means[key] = value
        else:
            self._means[key] = mean + (_RISE if value > mean else _FALL) * (value - mean)

    def _mean(self, key: Key) -> float:
        mean = self._means.get(key)
        return self._guess(key) if mean is None else mean

    def _guess(self, key: Key) -> float:
        kind, width, depth = key
        known = [other for other in self._means if other[0] == kind]
        if not known:
            return self._first_ms
        nearest = min(known, key=lambda other: (abs(other[1] - width), abs(other[2] - depth)))
        value = self._means[nearest]
        # Wider and shallower is cheaper per token, so only the other directions need caution.
        distance = max(0, nearest[1] - width) + max(0, depth - nearest[2])
        return float(value * _CAUTION**distance)


def _key(kind: Kind, width: int, depth: int) -> Key:
    return kind, width.bit_length(), (depth // _DEPTH_UNIT).bit_length()
