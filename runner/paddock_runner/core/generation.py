"""The one internal generation type: what every API dialect asks for and what the engine answers.

Dialect adapters (`api/`) build a `GenerationRequest`; the engine client turns it into `submit` frames and yields
`Event`s. Pure data: no I/O, no clock. Token ids are ints of the model's vocabulary; durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]
GrammarKind = Literal["json", "json_schema", "regex", "lark", "gbnf"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every sampler parameter of the engine. Defaults are Ollama's (`reference: api/types.go DefaultOptions`)."""

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


# Whose prefixes every tenant may go on from: text of the Model's author. No HTTP header can say it.
PUBLIC_TENANT = "\0public"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    `prompt` is a tuple of segments: text segments are tokenised by the engine, `special` says whether control tokens in
    the text are parsed as such (template text yes, user text no); a tuple of ints is taken as token ids.
    `max_tokens` < 0 means "until the context is full". `context_limit` caps the context of this request (num_ctx);
    0 = the model's own. `logprobs` None = none, n = the n best alternatives with the chosen token's own. `tenant`
    shares time fairly with other tenants and no prefix with them; a higher `priority` goes first.
    """

    request_id: str
    prompt: tuple[Segment, ...]
    max_tokens: int = -1
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    context_limit: int = 0
    add_bos: bool = True
    constraint: Constraint | None = None
    tenant: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the output must look like: `grammar` in the language that `kind` names (a JSON schema as JSON text).

    It begins with the first token, or after the token `after_token` (≥ 0) or the text `after_text` was generated;
    `required` False lets the output end before it began. `field` is what the caller's dialect calls it, for errors.
    """

    kind: GrammarKind
    grammar: str
    after_token: int = -1
    after_text: str = ""
    required: bool = True
    field: str = "format"


@dataclass(frozen=True, slots=True)
class Segment:
    text: str = ""
    special: bool = False
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The sequence has a slot; prefill begins. `tokens` are the prompt's ids."""

    prompt_tokens: int
    cached_tokens: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """New text (whole UTF-8 characters, no part of a stop string) and the ids generated since the last event."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    stop_sequence: str | None
    prompt_tokens: int
    output_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


Event = Started | Delta | Finished


class GenerationError(Exception):
    """Base of everything the engine can answer instead of tokens.

    GenerationError
      ├─ ContextExceededError   the prompt does not fit (4xx, says both numbers)
      ├─ InvalidRequestError    a field the engine refuses (4xx, names the field)
      ├─ QueueFullError         no room to wait (503 + Retry-After)
      ├─ EngineLoadingError     not ready yet (503 + Retry-After)
      ├─ EngineFailedError      the engine died or restarts under this request (500/503, retryable)
      └─ DrainingError          the process is shutting down (503)
    """


class ContextExceededError(GenerationError):
    def __init__(self, prompt_tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, but the context length is {limit} tokens; "
            "shorten the prompt or raise spec.serving.contextLength"
        )
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class InvalidRequestError(GenerationError):
    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(f"{field_name}: {message}")
        self.field = field_name


class QueueFullError(GenerationError):
    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting already, the queue is full; try again in {retry_after:.0f} s")
        self.waiting = waiting
        self.retry_after = retry_after


class EngineLoadingError(GenerationError):
    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineFailedError(GenerationError):
    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DrainingError(GenerationError):
    def __init__(self) -> None:
        super().__init__("the server is shutting down; try again in a moment")
        self.retry_after = 1.0
