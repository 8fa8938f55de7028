"""What ends a verb early: one line for stderr and an exit code. Raised by all verbs, caught by `app`."""

from __future__ import annotations

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130


class CliError(Exception):
    """`code` 1: it did not work; 2: it was asked for in a wrong way."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
