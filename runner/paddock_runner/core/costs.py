"""Learned milliseconds of a step, so that it can be filled without exceeding its bound. Called by `core.scheduler`.

Means are kept per token by kind (decode, prefill), by how many tokens of the kind the step has, and by depth: tokens
share each pass over the weights, so together they cost less than alone; attention walks the cache, so deep ones cost
more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["decode", "prefill"]
Key = tuple[Kind, int, int]

BOUND_MS = 200.0
_DEPTH_UNIT = 256
# A step that was slower than expected counts at once, a faster one slowly: the bound matters more than the last token.
_RISE = 0.7
_FALL = 0.2
# What a token may cost more at an untried greater depth, or with half as many beside it, than where it was tried.
_DEPTH_CAUTION = 1.5
_WIDTH_CAUTION = 1.25
# What a token is hoped to cost with more beside it than ever tried; without hope nothing larger would be tried.
_WIDTH_HOPE = 0.85
# How fast a size that was too slow once becomes worth another try while smaller ones are used.
_FORGIVE = 0.97


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What one step did: tokens and the deepest position of each kind."""

    decode_tokens: int
    decode_depth: int
    prefill_tokens: int
    prefill_depth: int


class CostModel:
    """Exponential means. Before the first observations every token costs `first_ms`: the time of one token alone."""

    def __init__(self, first_ms: float) -> None:
        self._first_ms = first_ms
        self._best_ms = max(first_ms, 0.01)
        self._means: dict[Key, float] = {}

    @property
    def always(self) -> int:
        """So many tokens fit into the bound at the best price seen, and are never refused, whatever came later.

        On a busy machine each step has a fixed cost; shrinking the batch would only make that cost come more often.
        """
        return max(1, int(BOUND_MS / self._best_ms))

    def decode_ms(self, tokens: int, depth: int) -> float:
        """Expected milliseconds of `tokens` sequences decoding one token each, the deepest at `depth`."""
        return tokens * self._mean(_key("decode", tokens, depth)) if tokens else 0.0

    def prefill_ms(self, tokens: int, depth: int) -> float:
        """Expected milliseconds of `tokens` of a prompt that begin at `depth`."""
        return tokens * self._mean(_key("prefill", tokens, depth)) if tokens else 0.0

    def observe(self, step: StepCosts, milliseconds: float) -> None:
        """Learn from a step. In a mixed step the decode part is taken as expected and the prefill part learns."""
        tokens = step.prefill_tokens + step.decode_tokens
        if tokens:
            self._best_ms = min(self._best_ms, max(milliseconds / tokens, 0.01))
        if step.prefill_tokens:
            rest = milliseconds - self.decode_ms(step.decode_tokens, step.decode_depth)
            key = _key("prefill", step.prefill_tokens, step.prefill_depth)
            self._learn(key, max(rest, 0.1 * milliseconds) / step.prefill_tokens)
            if not step.decode_tokens:
                self._forgive(key)
        elif step.decode_tokens:
            self._learn(_key("decode", step.decode_tokens, step.decode_depth), milliseconds / step.decode_tokens)

    def _learn(self, key: Key, value: float) -> None:
        mean = self._means.get(key)
        if mean is None:
            self._means[key] = value
        else:
            self._means[key] = mean + (_RISE if value > mean else _FALL) * (value - mean)

    def _forgive(self, key: Key) -> None:
        # Only in steps without decoding: a try that is too long would be a gap in somebody's stream.
        kind, width, depth = key
        wider = kind, width + 1, depth
        if wider in self._means:
            # Twice the tokens never cost less than these did.
            self._means[wider] = max(self._means[wider] * _FORGIVE, self._means[key] / 2)

    def _mean(self, key: Key) -> float:
        mean = self._means.get(key)
        return self._guess(key) if mean is None else mean

    def _guess(self, key: Key) -> float:
        """The lowest of what all tried sizes and depths let expect."""
        known = [_expected(other, mean, key) for other, mean in self._means.items() if other[0] == key[0]]
        return min(known, default=self._first_ms)


def _expected(known: Key, mean: float, key: Key) -> float:
    narrower, deeper = max(0, known[1] - key[1]), max(0, key[2] - known[2])
    hope = _WIDTH_HOPE if key[1] > known[1] else 1.0
    return float(mean * hope * _WIDTH_CAUTION**narrower * _DEPTH_CAUTION**deeper)


def _key(kind: Kind, tokens: int, depth: int) -> Key:
    return kind, tokens.bit_length(), (depth // _DEPTH_UNIT).bit_length()
