"""How fast and how stubbornly to download: limits, the number of connections, the bandwidth limit, back-off. Pure.

Used by `sources.download`. Times are seconds of a monotonic clock that the caller reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddock_runner.core.manifest import MAX_BLOB_BYTES

BETTER = 1.15
PROBE_AGAIN = 30
MAX_RETRY_AFTER = 300.0


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Bounds of a download: bytes and seconds.

    `chunk_bytes` is what one connection may lose by a kill, `segment_bytes` the longest request while several are
    open, `window_bytes` how far ahead of the hash a request may begin. Slower than `minimum_rate` (bytes/s) for
    `stall_seconds` is a stall. `attempts` count only while no new byte arrives.
    """

    chunk_bytes: int = 1 << 20
    segment_bytes: int = 32 << 20
    window_bytes: int = 512 << 20
    maximum_bytes: int = MAX_BLOB_BYTES
    attempts: int = 4
    pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0
    stall_seconds: float = 30.0
    minimum_rate: int = 1024
    tick_seconds: float = 1.0
    sync_bytes: int = 32 << 20


class Ramp:
    """The number of connections that the link deserves: doubled while that makes it faster, up to `most`."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._best = 0.0
        self._settled_for = 0
        self._probing = True
        self.target = 1

    def observe(self, rate: float) -> None:
        """Take the bytes/s of the last tick into account."""
        if rate <= 0:
            return
        if not self._probing:
            self._settled_for += 1
            if self._settled_for >= PROBE_AGAIN and self.target < self._most:
                self._probe(rate)
        elif self.target > 1 and rate < self._best * BETTER:
            self.target //= 2
            self._settle()
        elif self.target < self._most:
            self._probe(rate)
        else:
            self._settle()

    def refused(self) -> None:
        """One connection less from now on: the server does not want so many."""
        self._most = max(1, self.target - 1)
        self.target = self._most
        self._settle()

    def _probe(self, rate: float) -> None:
        self._best, self._probing = rate, True
        self.target = min(self._most, self.target * 2)

    def _settle(self) -> None:
        self._probing, self._settled_for = False, 0


class Bucket:
    """A bandwidth limit of `rate` bytes/s over all connections that share the bucket; 0 is no limit."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._free_at = 0.0

    def delay(self, count: int, now: float) -> float:
        """Seconds to wait after `count` more bytes."""
        if not self.rate:
            return 0.0
        self._free_at = max(self._free_at, now) + count / self.rate
        return self._free_at - now


class Patience:
    """The attempts of one connection: `attempts` in a row without a new byte, with growing pauses between them."""

    def __init__(self, limits: DownloadLimits) -> None:
        self._limits = limits
        self._failures = 0
        self._brought = False

    def progress(self) -> None:
        """New bytes came: this attempt does not count, and those before are forgiven."""
        self._brought = True

    def failed(self, luck: float, asked: float = 0.0) -> float | None:
        """Seconds to wait before the next attempt, None after the last; `luck` is a random number from 0 to 1.

        `asked` are the seconds that the server wants, kept within 5 minutes.
        """
        self._failures = 0 if self._brought else self._failures + 1
        self._brought = False
        if self._failures >= self._limits.attempts:
            return None
        grown: float = self._limits.pause_seconds * 2 ** min(max(self._failures - 1, 0), 16)
        pause = min(grown, self._limits.longest_pause_seconds) * (0.5 + luck / 2)
        return max(pause, min(asked, MAX_RETRY_AFTER))
