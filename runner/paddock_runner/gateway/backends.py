"""Which runner gets a request: round robin over a model's backends, those that refused last. Called by `gateway.proxy`.

Ejection is passive: a failed connection puts a backend behind the others for a while. A backend that is alone is still
tried, for a refused connection costs less than a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from paddock_runner.core.gateway_config import Model

FIRST_EJECTION = 1.0
LONGEST_EJECTION = 30.0


class Backends:
    """The health of every known backend and the turn of every model. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ejected: dict[str, tuple[int, float]] = {}
        self._turns: dict[str, int] = {}

    def order(self, model: Model) -> list[str]:
        """The model's backends in the order to try them."""
        backends = model.backends
        if len(backends) < 2:
            return list(backends)
        turn = self._turns[model.name] = (self._turns.get(model.name, -1) + 1) % len(backends)
        now = self._clock()
        return sorted((*backends[turn:], *backends[:turn]), key=lambda url: self._until(url, now))

    def failed(self, url: str) -> None:
        """A connection failed: eject, each time in a row for twice as long."""
        failures = self._ejected.get(url, (0, 0.0))[0] + 1
        seconds = min(LONGEST_EJECTION, FIRST_EJECTION * 2 ** min(failures - 1, 10))
        self._ejected[url] = (failures, self._clock() + seconds)

    def worked(self, url: str) -> None:
        """A backend answered: it is healthy."""
        self._ejected.pop(url, None)

    def keep(self, models: Iterable[Model]) -> None:
        """Forget what the configuration no longer names."""
        known = list(models)
        urls = {url for model in known for url in model.backends}
        names = {model.name for model in known}
        self._ejected = {url: state for url, state in self._ejected.items() if url in urls}
        self._turns = {name: turn for name, turn in self._turns.items() if name in names}

    def ejected(self) -> int:
        """How many backends are ejected now."""
        now = self._clock()
        return sum(until > now for _, until in self._ejected.values())

    def _until(self, url: str, now: float) -> float:
        until = self._ejected.get(url, (0, 0.0))[1]
        return until if until > now else 0.0
