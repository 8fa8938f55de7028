"""Who goes next among the waiting: fair between tenants, by priority, first come first served within one of them.

Called by `core.scheduler`. Each tenant has a clock that runs with the service it gets, and who has had least goes first
(virtual token counters: https://arxiv.org/abs/2401.00588). Nobody saves up: a tenant that was away starts where the
least served of the present ones is.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection

from paddock_runner.core.sequence import Sequence

# What a generated token counts against one of a prompt: a step for each of them, not one for hundreds.
OUTPUT_WEIGHT = 4.0
# How many later ones of higher priority may go before a sequence; then it counts as one of the highest.
PATIENCE = 16
# The newest interval's weight in their mean.
_NEWEST = 0.2


class FairQueue:
    """Sequences that wait, and the service of all tenants that have any here or running."""

    def __init__(self) -> None:
        self._waiting: list[Sequence] = []  # in the order of their arrival
        self._served: dict[str, float] = {}
        self._present: Counter[str] = Counter()
        self._arrivals = itertools.count()
        self._interval = 0.0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """A new one. `leave` has to follow, when it is done or gives up."""
        sequence.arrival = next(self._arrivals)
        floor = min((self._served[tenant] for tenant in self._present), default=0.0)
        self._present[sequence.tenant] += 1
        self._served = {
            tenant: service for tenant, service in self._served.items() if tenant in self._present or service > floor
        }
        self._served[sequence.tenant] = max(self._served.get(sequence.tenant, 0.0), floor)
        self._waiting.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """One that ran and waits again, in its old place."""
        self._waiting.append(sequence)
        self._waiting.sort(key=lambda one: one.arrival)

    def next(self, passed: Collection[Sequence] = ()) -> Sequence | None:
        """Whose turn it is, not counting those in `passed`."""
        return min((one for one in self._waiting if one not in passed), key=self._rank, default=None)

    def take(self, sequence: Sequence) -> None:
        """`sequence` runs from now on."""
        self._waiting.remove(sequence)
        for other in self._waiting:
            other.overtaken += other.arrival < sequence.arrival and other.priority < sequence.priority
        self._interval += _NEWEST * (self._since - self._interval) if self._interval else self._since
        self._since = 0.0

    def leave(self, sequence: Sequence) -> None:
        """`sequence` is done or gave up, waiting or not."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        self._present[sequence.tenant] -= 1
        if not self._present[sequence.tenant]:
            del self._present[sequence.tenant]

    def serve(self, sequence: Sequence, tokens: float) -> None:
        """Its tenant's clock runs on."""
        self._served[sequence.tenant] += tokens

    def pass_time(self, milliseconds: float) -> None:
        """A step was run; while nobody waits the time between two turns says nothing."""
        if self._waiting:
            self._since += milliseconds

    def expected_seconds(self) -> float:
        """How long one that comes now would wait, as fast as turns came lately."""
        return (len(self._waiting) + 1) * max(self._interval, self._since) / 1000 if self._waiting else 0.0

    def _rank(self, sequence: Sequence) -> tuple[float, float, int]:
        patient = sequence.overtaken < PATIENCE
        priority = -sequence.priority if patient else float("-inf")
        return priority, self._served[sequence.tenant], sequence.arrival
