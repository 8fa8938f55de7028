"""Stop strings across token boundaries. Called by `engine.loop`, one matcher for each sequence that has any.

Text that may turn out to be the beginning of a stop string is held back until it is decided, so no part of a stop
string ever reaches a reader.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024


class StopMatcher:
    """`feed` text piece by piece; `flush` gives what was held back when generation ends for another reason."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """(text to show, stop string found). The earliest match wins; of two that begin together the longer one."""
        text = self._held + text
        found = self._find(text)
        if found is not None:
            self._held = ""
            at, stop = found
            return text[:at], stop
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """The text held back; nothing is held afterwards."""
        text, self._held = self._held, ""
        return text

    def _find(self, text: str) -> tuple[int, str] | None:
        hits = [(at, -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not hits:
            return None
        at, _, stop = min(hits)
        return at, stop

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
