"""One request inside the engine: its sequence, sampler, output and times. Called by `engine.loop` only."""

from __future__ import annotations

from dataclasses import dataclass

from paddock_runner.core.engine_output import Output
from paddock_runner.core.generation import Finished, FinishReason, GenerationRequest, Started
from paddock_runner.core.sequence import Sequence
from paddock_runner.engine.backend import Sampler
from paddock_runner.engine.grammar import Guide


@dataclass(slots=True)
class Run:
    """Times are of the loop's clock, in seconds; 0 means "not yet"."""

    handle: int
    request: GenerationRequest
    sequence: Sequence
    sampler: Sampler
    output: Output
    arrived: float
    guide: Guide | None = None
    admitted: float = 0.0
    first_token: float = 0.0

    def started(self) -> Started:
        """The event for when it gets a slot."""
        count = self.sequence.prompt_tokens
        return Started(count, self.sequence.cached, tuple(self.sequence.tokens[:count]))

    def finished(self, reason: FinishReason, now: float) -> Finished:
        """The last event."""
        first_token = self.first_token or now
        return Finished(
            reason=reason,
            stop_sequence=self.output.stop,
            prompt_tokens=self.sequence.prompt_tokens,
            output_tokens=self.output.count,
            queue_seconds=self.admitted - self.arrived,
            prefill_seconds=first_token - self.admitted,
            decode_seconds=now - first_token,
        )
