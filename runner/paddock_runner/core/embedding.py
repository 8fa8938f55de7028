"""What every dialect asks of an embedding or reranking model, and what the engine answers. Pure data.

The counterpart of `core.generation` for Models of mode Embed and Rerank. `api` builds an `EmbedRequest`; the engine
answers with one `Embedded` for each text, in any order, and `EmbedDone` at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddock_runner.core.generation import InvalidRequestError, Segment

MAX_TEXTS = 2048
MAX_DIMENSIONS = 1 << 16


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts whose vectors are wanted, or with a `query` documents whose scores are.

    A segment with tokens is taken as it is; a text is tokenised and gets the model's own tokens around it. `truncate`
    cuts what is longer than the context, otherwise it is an error. `dimensions` cuts each vector, 0 keeps it whole.
    `context_limit` caps the context of this request, 0 = the model's own. Tenants take turns.
    """

    request_id: str
    texts: tuple[Segment, ...]
    query: str | None = None
    truncate: bool = False
    dimensions: int = 0
    context_limit: int = 0
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer for the text at `index`, which had `tokens`: `vector` holds little-endian float32 numbers.

    Vectors have length 1; a score stands alone in its vector, as the model's head gives it.
    """

    index: int
    tokens: int
    vector: bytes


@dataclass(frozen=True, slots=True)
class EmbedDone:
    """All texts are answered. `tokens` of all of them; seconds until the first was begun, and from then on."""

    tokens: int
    queue_seconds: float
    compute_seconds: float


EmbedEvent = Embedded | EmbedDone


def check_embedding(request: EmbedRequest, vocab_size: int) -> None:
    """Raises InvalidRequestError naming field, limit and fix."""
    if not 1 <= len(request.texts) <= MAX_TEXTS:
        raise InvalidRequestError(
            "input", f"has {len(request.texts)} texts, must have 1 to {MAX_TEXTS}; send several requests"
        )
    if not 0 <= request.dimensions <= MAX_DIMENSIONS:
        raise InvalidRequestError("dimensions", f"must be between 1 and {MAX_DIMENSIONS}")
    if request.context_limit < 0:
        raise InvalidRequestError("context_limit", "must not be negative; 0 means the model's own")
    for segment in request.texts:
        if any(not 0 <= token < vocab_size for token in segment.tokens):
            raise InvalidRequestError("input", f"has a token id outside 0 to {vocab_size - 1}")
