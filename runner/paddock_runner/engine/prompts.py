"""Prompts to token ids, in a thread of its own: a long text must not delay anybody's step. Called by `engine.loop`.

Template text may contain control tokens, users' text may not. Still, tokenising segments one by one would break words
at their borders; so all is tokenised together, and only if that finds other control tokens than the template's own, one
by one.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from paddock_runner.core.generation import EngineFailedError, GenerationError, GenerationRequest, Segment
from paddock_runner.engine.backend import Backend


def encode_prompt(backend: Backend, request: GenerationRequest) -> list[int]:
    """Token ids of the whole prompt, with BOS first if the model and the request want it and it is not there yet."""
    tokens: list[int] = []
    for is_text, group in itertools.groupby(request.prompt, lambda segment: not segment.tokens):
        if is_text:
            tokens += _encode_text(backend, list(group))
        else:
            tokens += [token for segment in group for token in segment.tokens]
    vocab = backend.vocab
    if request.add_bos and vocab.add_bos and vocab.bos >= 0 and tokens[:1] != [vocab.bos]:
        tokens.insert(0, vocab.bos)
    return tokens


def _encode_text(backend: Backend, segments: list[Segment]) -> list[int]:
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


def _controls(backend: Backend, tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if backend.is_control(token)]


class PromptThread:
    """`submit` requests, be woken by `wake`, `collect` their tokens or errors."""

    def __init__(self, backend: Backend, wake: Callable[[], None]) -> None:
        self._backend = backend
        self._wake = wake
        self._todo: queue.SimpleQueue[tuple[int, GenerationRequest] | None] = queue.SimpleQueue()
        self._done: deque[tuple[int, list[int] | GenerationError]] = deque()
        self._thread = threading.Thread(target=self._work, name="prompts", daemon=True)
        self._thread.start()

    def submit(self, handle: int, request: GenerationRequest) -> None:
        self._todo.put((handle, request))

    def collect(self) -> list[tuple[int, list[int] | GenerationError]]:
        """(handle, tokens or error) of all that are finished, in the order of submission."""
        finished = []
        while self._done:
            finished.append(self._done.popleft())
        return finished

    def close(self) -> None:
        """End the thread after the prompt it is at."""
        self._todo.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            handle, request = job
            self._done.append((handle, self._encode(request)))
            self._wake()

    def _encode(self, request: GenerationRequest) -> list[int] | GenerationError:
        try:
            return encode_prompt(self._backend, request)
        except GenerationError as error:
            return error
        except Exception as error:  # the thread must outlive a prompt that it cannot encode
            return EngineFailedError(f"the prompt could not be tokenised: {type(error).__name__}")
