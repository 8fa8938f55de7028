"""How long to wait before a child starts again. Called by `process` and `model`; time is given, never read."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 0.2
LIMIT_SECONDS = 30.0
RESET_SECONDS = 20.0
"""Something that worked this long was healthy: its next failure is a first one."""


@dataclass(slots=True)
class Backoff:
    """Doubles from `first` to `limit`; one life of `reset` seconds or more starts it over."""

    first: float = FIRST_SECONDS
    limit: float = LIMIT_SECONDS
    reset: float = RESET_SECONDS
    failures: int = 0

    def delay(self, lived: float) -> float:
        """Seconds to wait after a life of `lived` seconds ended."""
        if lived >= self.reset:
            self.failures = 0
        seconds = min(self.limit, self.first * 2.0 ** min(self.failures, 20))
        self.failures += 1
        return seconds

    def clear(self) -> None:
        self.failures = 0
