"""What the scheduler moves about: sequences, the chunks of them that a step decodes, and what a step gave.

Made by `engine.loop` and `core.scheduler`, read by every backend.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paddock_runner.core.costs import StepCosts
from paddock_runner.core.prefix_operations import Operation


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence. `tokens` are the prompt and everything generated; the first `cached` of them are in the KV cache.

    `limit` is the most tokens it may have in all, `max_tokens` the most it may generate (< 0: no bound but `limit`).
    Of its `tenant` come first those of high `priority`, then those that came first.
    `slot` is its sequence id in the cache while it runs, -1 while it waits.
    """

    key: int
    tokens: list[int]
    limit: int
    max_tokens: int = -1
    tenant: str = ""
    priority: int = 0
    prompt_tokens: int = field(init=False)
    slot: int = -1
    cached: int = 0
    held: bool = False
    arrival: int = -1
    overtaken: int = 0
    preemptions: int = 0
    last_turn: int = -1

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def missing(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.cached

    @property
    def decoding(self) -> bool:
        """Only the newest token is missing, and it was generated or is the last of the prompt."""
        return self.missing == 1 and self.cached > 0

    @property
    def prefilling(self) -> bool:
        """It can go on, and it has more than its newest token to read."""
        return not self.held and not self.decoding


@dataclass(frozen=True, slots=True)
class Chunk:
    """`tokens` of `sequence` from position `start`. `output` asks for logits after the last one."""

    sequence: Sequence
    start: int
    tokens: list[int]
    output: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One batch. `operations` come first; `admitted` are the sequences that got a slot for it."""

    operations: list[Operation]
    chunks: list[Chunk]
    admitted: list[Sequence]
    costs: StepCosts


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sequence's new token; `end` says that it is one of the model's end tokens."""

    sequence: Sequence
    token: int
    end: bool
