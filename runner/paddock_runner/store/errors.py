"""Everything the store and the sources can refuse or fail with, each with a reason from the published list.

Raised by `store` and `sources`; `commands` turn them into JSON events. `retryable` says whether trying again can help.

StoreError
  ├─ NotFoundError          no such model, manifest or blob
  ├─ NotGGUFError           the bytes are something else
  ├─ TruncatedGGUFError     the file ends early
  ├─ InvalidGGUFError       the header breaks a rule
  ├─ InvalidModelError      a Modelfile, name or layer is wrong
  ├─ DigestMismatchError    bytes do not hash to their name
  ├─ SizeMismatchError      other length than declared
  ├─ NoSpaceError           the disk or quota is full
  └─ CacheUnusableError     the cache cannot be read or written
       └─ ReadOnlyError     … because it is read-only or belongs to somebody else
"""

from __future__ import annotations

import errno
from pathlib import Path


class StoreError(Exception):
    """Base. `reason` is CamelCase and stable; the message is for people."""

    reason = "CacheUnusable"
    retryable = False


class NotFoundError(StoreError):
    reason = "NotFound"


class NotGGUFError(StoreError):
    reason = "NotGGUF"

    def __init__(self, found: bytes, hint: str = "") -> None:
        super().__init__(f"not a GGUF file: it begins with {found[:8]!r} instead of b'GGUF'{hint}")


class TruncatedGGUFError(StoreError):
    reason = "TruncatedGGUF"

    def __init__(self, what: str, needed: int, actual: int) -> None:
        super().__init__(f"truncated GGUF file: {what} needs {needed} bytes, the file has {actual}; fetch it again")
        self.needed = needed
        self.actual = actual


class InvalidGGUFError(StoreError):
    reason = "InvalidGGUF"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"invalid GGUF file: {field}: {problem}")
        self.field = field


class InvalidModelError(StoreError):
    reason = "InvalidModel"


class DigestMismatchError(StoreError):
    reason = "DigestMismatch"

    def __init__(self, what: str, expected: object, actual: object) -> None:
        super().__init__(f"{what} must have the digest {expected}, but its bytes hash to {actual}")


class SizeMismatchError(StoreError):
    reason = "SizeMismatch"

    def __init__(self, what: str, expected: int, actual: int) -> None:
        super().__init__(f"{what} must have {expected} bytes, but has {actual}")


class NoSpaceError(StoreError):
    reason = "NoSpace"
    retryable = True


class CacheUnusableError(StoreError):
    reason = "CacheUnusable"


class ReadOnlyError(CacheUnusableError):
    pass


_FULL = {
    errno.ENOSPC: "no space is left; free some space or use another folder",
    errno.EDQUOT: "the quota is used up; free some space, raise the quota or use another folder",
}
_FORBIDDEN = {
    errno.EROFS: "the file system is read-only; mount it writable or use another folder",
    errno.EACCES: "this user may not; change the owner or the mode, or use another folder",
    errno.EPERM: "this user may not; change the owner or the mode, or use another folder",
}
_OTHER = {
    errno.EIO: "the disk fails (Input/output error); see the kernel's log, then run paddock verify",
    errno.ELOOP: "a symbolic link is in its place; move it away",
    errno.EISDIR: "it is a folder; name a file, or move it away",
    errno.ENOTDIR: "a file is in the place of a folder; move it away",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENOLCK: "the file system gives no lock; mount it with locks or use another folder",
}


def from_os_error(error: OSError, doing: str, path: Path) -> StoreError:
    """The typed error for an OSError met while `doing` something to `path`; it says what to do about it."""
    number = error.errno or 0
    for kind, words in ((NoSpaceError, _FULL), (ReadOnlyError, _FORBIDDEN), (CacheUnusableError, _OTHER)):
        if number in words:
            return kind(f"{doing} {path} failed: {words[number]}")
    return CacheUnusableError(f"{doing} {path} failed: {error.strerror or error}; look at that path, then try again")
