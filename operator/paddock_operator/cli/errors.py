"""What ends a verb early: one line for stderr and an exit code. Raised by all verbs, caught by `app`."""

from __future__ import annotations

FAILED, BAD_USAGE, RETRY, INTERRUPTED = 1, 2, 75, 130


class CliError(Exception):
    """`code` 1: it did not work; 2: it was asked for in a wrong way; 75: the same command may work later."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class RunnerError(CliError):
    """What `paddock-runner` failed with; `reason` is its CamelCase word, empty if it crashed."""

    def __init__(self, message: str, code: int, reason: str = "") -> None:
        super().__init__(message, code)
        self.reason = reason
