"""What every source yields and nothing else: the files of one model, where their bytes are and what they must hash to.

Made by the modules of `sources` (one per protocol), carried out by `sources.fetch`. Plain data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paddock_runner.core.digest import Digest
from paddock_runner.core.names import ModelName

Placement = Literal["Link", "Copy", "InPlace"]
"""Link: hard link, else reflink, else copy. InPlace: hard link or nothing."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Bytes behind an absolute http or https URL, which the transport judges, mirrors and authorises."""

    url: str


@dataclass(frozen=True, slots=True)
class Local:
    """Bytes of a file on this machine (a claim, another store)."""

    path: Path
    placement: Placement = "Link"


@dataclass(frozen=True, slots=True)
class Inline:
    """Bytes that the plan carries itself: small texts and JSON."""

    data: bytes


Where = Remote | Local | Inline


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file. `size` in bytes and `digest` are None where the protocol does not tell them beforehand.

    `kind` is the word of Ollama's layer types (model, projector, adapter, template, system, params, messages, license),
    `config` for the configuration of a manifest, or "" for a layer that is carried along and not used. Several files of
    kind `model` are the parts of one split GGUF, in order. `media_type` is the manifest's own word, "" without one.
    """

    kind: str
    name: str
    where: Where
    size: int | None = None
    digest: Digest | None = None
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """A model as files. `manifest` is kept byte for byte if the source has one of Ollama's kind, else one is built.

    `revision` is what a moving word resolved to, for people (a commit, a digest); `validator` is what makes the next
    question conditional (an ETag), "" without one.
    """

    name: ModelName
    files: tuple[PlannedFile, ...]
    manifest: bytes | None = None
    revision: str = ""
    validator: str = ""

    @property
    def size(self) -> int | None:
        """Bytes of all files, None if some are unknown."""
        sizes = [item.size for item in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)
