"""Prompts to token ids, in a thread of its own: a long text must not delay anybody's step. Called by `engine.loop`.

Template text may contain control tokens, users' text may not. Still, tokenising segments one by one would break words
at their borders; so all is tokenised together, and only if that finds other control tokens than the template's own, one
by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from paddock_runner.core.generation import GenerationRequest, Segment
from paddock_runner.engine.backend import Backend
from paddock_runner.engine.grammar import Guide, Table
from paddock_runner.engine.job_thread import JobThread


class Tokenizer(Protocol):
    """The part of a backend that may be used from another thread."""

    def tokenize(self, text: str, special: bool) -> list[int]: ...

    def is_control(self, token: int) -> bool: ...


def encode_prompt(backend: Backend, request: GenerationRequest) -> list[int]:
    """Token ids of the whole prompt, with BOS first if the model and the request want it and it is not there yet."""
    tokens: list[int] = []
    for is_text, group in itertools.groupby(request.prompt, lambda segment: not segment.tokens):
        if is_text:
            tokens += encode_segments(backend, list(group))
        else:
            tokens += [token for segment in group for token in segment.tokens]
    vocab = backend.vocab
    if request.add_bos and vocab.add_bos and vocab.bos >= 0 and tokens[:1] != [vocab.bos]:
        tokens.insert(0, vocab.bos)
    return tokens


def encode_segments(backend: Tokenizer, segments: list[Segment]) -> list[int]:
    """Token ids of segments of text, tokenised as one text wherever that is safe."""
    parts = [
        ("".join(segment.text for segment in group), special)
        for special, group in itertools.groupby(segments, lambda segment: segment.special)
    ]
    if len(parts) == 1:
        return backend.tokenize(*parts[0])
    whole = backend.tokenize("".join(text for text, _ in parts), True)
    trusted = [token for text, special in parts if special for token in backend.tokenize(text, True)]
    if _controls(backend, whole) == _controls(backend, trusted):
        return whole
    return [token for text, special in parts for token in backend.tokenize(text, special)]


def _controls(backend: Tokenizer, tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if backend.is_control(token)]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt's ids, and what its output is held to."""

    tokens: list[int]
    guide: Guide | None


def prepare(backend: Backend, table: Table, request: GenerationRequest) -> Prepared:
    """All that can be done before a request waits for a slot. Raises InvalidRequestError."""
    guide = None if request.constraint is None else table.guide(request.constraint)
    return Prepared(encode_prompt(backend, request), guide)


class PromptThread(JobThread[GenerationRequest, Prepared]):
    """`submit` requests, be woken by `wake`, `collect` what was prepared or errors."""

    def __init__(self, backend: Backend, table: Table, wake: Callable[[], None], mark: Callable[[int], None]) -> None:
        work = partial(prepare, backend, table)
        super().__init__(work, wake, name="prompts", what="the prompt could not be tokenised", mark=mark)
