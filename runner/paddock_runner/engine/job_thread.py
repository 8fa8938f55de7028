"""A thread that does jobs one after another beside an engine loop, which must not wait. Called by `engine.prompts` and
`engine.embed_texts`.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from paddock_runner.core.generation import EngineFailedError, GenerationError

Job = TypeVar("Job")
Result = TypeVar("Result")


class JobThread(Generic[Job, Result]):
    """`submit` jobs, be woken by `wake`, `collect` results or errors. `what` says what `work` does, for an error.

    `mark` is told the handle of the job that the thread is at, 0 when it is done.
    """

    def __init__(
        self,
        work: Callable[[Job], Result],
        wake: Callable[[], None],
        *,
        name: str,
        what: str,
        mark: Callable[[int], None],
    ) -> None:
        self._run = work
        self._wake = wake
        self._what = what
        self._mark = mark
        self._todo: queue.SimpleQueue[tuple[int, Job] | None] = queue.SimpleQueue()
        self._done: deque[tuple[int, Result | GenerationError]] = deque()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, handle: int, job: Job) -> None:
        self._todo.put((handle, job))

    def collect(self) -> list[tuple[int, Result | GenerationError]]:
        """(handle, result or error) of all that are finished, in the order of submission."""
        finished = []
        while self._done:
            finished.append(self._done.popleft())
        return finished

    def close(self) -> None:
        """End the thread after the job it is at."""
        self._todo.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            self._mark(job[0])
            self._done.append((job[0], self._outcome(job[1])))
            self._mark(0)
            self._wake()

    def _outcome(self, job: Job) -> Result | GenerationError:
        try:
            return self._run(job)
        except GenerationError as error:
            return error
        except Exception as error:  # the thread must outlive a job that it cannot do
            return EngineFailedError(f"{self._what}: {type(error).__name__}")
