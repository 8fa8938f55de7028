"""Which runner gets a request: the one with the fewest open requests of ours. Called by `gateway.proxy` and `holds`.

Ejection is passive: a failed connection puts a runner behind the others for 1 s, each time in a row for twice as long,
30 s at most. When all of a Model's runners are ejected, the next one is tried after a short pause instead: a runner
that is alone comes back to work as soon as it answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

FIRST_EJECTION = 1.0
LONGEST_EJECTION = 30.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0


@dataclass(slots=True)
class State:
    """A runner that failed: how often in a row, ejected until, not to be tried at all until (monotonic seconds)."""

    failures: int = 0
    ejected: float = 0.0
    paused: float = 0.0


class Backends:
    """The health of every known runner. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._states: dict[str, State] = {}
        self._open: dict[str, int] = {}
        self._turn = 0

    def choose(self, urls: Sequence[str], tried: Collection[str] = ()) -> str | None:
        """The best of `urls` to ask now; None while none should be. Those that were `tried` come last."""
        now = self._clock()
        usable = [url for url in urls if self._paused(url, now) <= now]
        healthy = [url for url in usable if self._ejected(url) <= now]
        fresh = [url for url in healthy if url not in tried]
        return self._idlest(fresh or healthy) if fresh or healthy else min(usable, key=self._ejected, default=None)

    def pause(self, urls: Sequence[str]) -> float:
        """Seconds until one of `urls` may be asked, as far as time alone decides; infinite without any."""
        now = self._clock()
        return max(0.0, min((self._paused(url, now) for url in urls), default=float("inf")) - now)

    def soonest(self, urls: Sequence[str]) -> str | None:
        """The one that may be asked first, even if it is too early."""
        now = self._clock()
        return min(urls, key=lambda url: self._paused(url, now), default=None)

    @contextlib.contextmanager
    def using(self, url: str) -> Generator[None]:
        """Count an open request."""
        self._open[url] = self._open.get(url, 0) + 1
        try:
            yield
        finally:
            self._open[url] -= 1
            if not self._open[url]:
                del self._open[url]

    def failed(self, url: str) -> None:
        """A connection failed, or broke before its answer: eject."""
        state = self._states.setdefault(url, State())
        state.failures += 1
        doublings = min(state.failures - 1, 10)
        state.ejected = self._clock() + min(LONGEST_EJECTION, FIRST_EJECTION * 2**doublings)
        state.paused = self._clock() + min(LONGEST_PAUSE, FIRST_PAUSE * 2**doublings)

    def rest(self, url: str, seconds: float) -> None:
        """It lives, but does not want work now: leave it alone for a moment."""
        state = self._states.setdefault(url, State())
        state.ejected = state.paused = self._clock() + min(LONGEST_PAUSE, max(FIRST_PAUSE, seconds))

    def worked(self, url: str) -> None:
        """It answered: it is healthy."""
        self._states.pop(url, None)

    def keep(self, urls: set[str]) -> None:
        """Forget the health of all others: an address that comes back is another runner."""
        self._states = {url: state for url, state in self._states.items() if url in urls}

    def ejected(self, urls: Sequence[str]) -> int:
        """How many of `urls` are ejected now."""
        now = self._clock()
        return sum(self._ejected(url) > now for url in urls)

    def _idlest(self, urls: Sequence[str]) -> str:
        self._turn += 1
        turn = self._turn % len(urls)
        return min((*urls[turn:], *urls[:turn]), key=lambda url: self._open.get(url, 0))

    def _ejected(self, url: str) -> float:
        state = self._states.get(url)
        return state.ejected if state else 0.0

    def _paused(self, url: str, now: float) -> float:
        state = self._states.get(url)
        return state.paused if state and state.paused > now else 0.0
