"""Content digests: the `Digest` type and the only mapping from a digest to a file name.

Used by everything that names bytes: manifests, the store, sources and the commands. Pure.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_TEXT = re.compile(r"sha256:([0-9a-f]{64})")
_FILE = re.compile(r"sha256-([0-9a-f]{64})")


class InvalidDigestError(ValueError):
    """The text is not `sha256:` followed by 64 lower-case hexadecimal digits."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 of bytes; `hex` is 64 lower-case hexadecimal digits. `str()` gives `sha256:<hex>`."""

    hex: str

    def __post_init__(self) -> None:
        if not _TEXT.fullmatch(f"sha256:{self.hex}"):
            raise InvalidDigestError("a digest must be 64 lower-case hexadecimal digits")

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @property
    def file_name(self) -> str:
        """The blob's file name, `sha256-<hex>`."""
        return f"sha256-{self.hex}"

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits, for people."""
        return self.hex[:12]

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Read `sha256:<64 hex>`. Raises InvalidDigestError for anything else."""
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidDigestError(f"digest must look like sha256:<64 lower-case hex digits>, not {str(text)[:80]!r}")
        return cls(match[1])

    @classmethod
    def from_file_name(cls, name: str) -> Digest:
        """Read a blob's file name, `sha256-<64 hex>`. Raises InvalidDigestError for anything else."""
        match = _FILE.fullmatch(name)
        if match is None:
            raise InvalidDigestError(f"not the file name of a blob: {name[:80]!r}")
        return cls(match[1])

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The digest of `data`."""
        return cls(hashlib.sha256(data).hexdigest())
