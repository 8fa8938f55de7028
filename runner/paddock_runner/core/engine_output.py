"""What a sequence has generated but not told yet: tokens in, `Delta` out. Called by `engine.loop`."""

from __future__ import annotations

from paddock_runner.core.generation import Delta, TokenLogprob
from paddock_runner.core.stops import StopMatcher
from paddock_runner.core.text import TextDecoder


class Output:
    """`push` every token, then `take`. `stop` is the stop string once one was found; `count` all tokens pushed."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stop: str | None = None
        self.count = 0
        self._decoder = TextDecoder()
        self._matcher = StopMatcher(stops) if stops else None
        self._text = ""
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []

    def push(self, token: int, piece: bytes, logprob: TokenLogprob | None) -> None:
        """Add a token that is part of the text."""
        self.count += 1
        self._tokens.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        text = self._decoder.feed(piece)
        if self._matcher is not None:
            text, self.stop = self._matcher.feed(text)
        self._text += text

    def push_end(self) -> None:
        """Count the model's end token: it was generated, but it is no text and no part of any event."""
        self.count += 1

    def take(self, *, last: bool = False) -> Delta | None:
        """What can be told now; None while there is no text. `last`: nothing follows, so nothing is held back."""
        if last and self.stop is None and self._matcher is not None:
            self._text += self._matcher.flush()
        if not self._text and not (last and self._tokens):
            return None
        delta = Delta(self._text, tuple(self._tokens), tuple(self._logprobs))
        self._text = ""
        self._tokens.clear()
        self._logprobs.clear()
        return delta
