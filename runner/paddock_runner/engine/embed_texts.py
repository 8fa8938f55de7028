"""The texts of an embedding request as token ids, within the model's limit. Called by `engine.embed_loop` in a thread.

A text to embed may spell out control tokens, as the authors of such models do in their instructions: all it can change
is its own vector. Queries and documents for a reranker may not, or a document could write its own score.
"""

from __future__ import annotations

import re

from paddock_runner.core.embedding import EmbedRequest
from paddock_runner.core.generation import ContextExceededError, InvalidRequestError, Segment
from paddock_runner.engine.embed_backend import EmbedBackend, PairForm
from paddock_runner.engine.prompts import encode_segments

_PLACES = re.compile(r"(\{query\}|\{document\})")


def encode_texts(backend: EmbedBackend, limit: int, request: EmbedRequest) -> list[list[int]]:
    """Token ids of every text. `limit` is the most tokens that the model takes.

    Raises ContextExceededError for a text that is longer and may not be cut, InvalidRequestError for an empty one.
    """
    most = min(limit, request.context_limit or limit)
    if request.query is not None:
        return [_within(_pair(backend, request.query, document.text), most) for document in request.texts]
    return [_encode(backend, most, index, request) for index in range(len(request.texts))]


def _encode(backend: EmbedBackend, most: int, index: int, request: EmbedRequest) -> list[int]:
    segment = request.texts[index]
    before, after = ([], []) if segment.tokens else backend.around
    body = list(segment.tokens) or backend.tokenize(segment.text, True)
    if request.truncate:
        body = body[: max(most - len(before) - len(after), 0)]
    tokens = [*before, *body, *after]
    if not tokens:
        raise InvalidRequestError("input", f"text {index} has no tokens; leave it out")
    return _within(tokens, most)


def _within(tokens: list[int], most: int) -> list[int]:
    if len(tokens) > most:
        raise ContextExceededError(len(tokens), most)
    return tokens


def _pair(backend: EmbedBackend, query: str, document: str) -> list[int]:
    form = backend.pair
    if form.template is not None:
        return encode_segments(backend, _filled(form, query, document))
    ends = (backend.tokenize(query, False), backend.tokenize(document, False))
    return [*form.before, *ends[0], *form.between, *ends[1], *form.after]


def _filled(form: PairForm, query: str, document: str) -> list[Segment]:
    given = {"{query}": query, "{document}": document}
    parts = [part for part in _PLACES.split(form.template or "") if part]
    return [Segment(given.get(part, part), special=part not in given) for part in parts]
