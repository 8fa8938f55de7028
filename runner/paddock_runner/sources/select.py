"""Which source serves `Model.spec.source`: one table.

Called by `commands.pull`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from paddock_runner.sources.base import Source
from paddock_runner.sources.claim import ClaimSource
from paddock_runner.sources.errors import SourceUnsupportedError
from paddock_runner.sources.http import HttpSource
from paddock_runner.sources.huggingface import HuggingFaceSource
from paddock_runner.sources.model import ModelSource
from paddock_runner.sources.oci import OciSource
from paddock_runner.sources.ollama import OllamaSource

_SOURCES: dict[str, Callable[[Mapping[str, object], Path | None], Source]] = {
    "ollama": OllamaSource.parse,
    "huggingFace": HuggingFaceSource.parse,
    "oci": OciSource.parse,
    # A URL has no secretRef: credentials never go to a host that the Secret was not made for.
    "http": lambda spec, credentials: HttpSource.parse(spec),
    "claim": ClaimSource.parse,
    "model": ModelSource.parse,
}


def source_for(spec: object, credentials: Path | None = None) -> Source:
    """The source of a `Model.spec.source` object; `credentials` is the folder of a mounted Secret.

    Raises SourceUnsupportedError that says what to do instead.
    """
    # `resolve` is a token for the planner: it says when to ask again, not whom.
    members = {key: value for key, value in spec.items() if key != "resolve"} if isinstance(spec, dict) else {}
    if len(members) != 1:
        raise SourceUnsupportedError(
            "source must be an object with exactly one of: ollama, huggingFace, oci, http, claim, model"
        )
    kind, value = next(iter(members.items()))
    if kind not in _SOURCES:
        raise SourceUnsupportedError(f"source.{kind}: there is no such source")
    if not isinstance(value, dict):
        raise SourceUnsupportedError(f"source.{kind} must be an object")
    return _SOURCES[kind](value, credentials)
