"""Public model names: when two spellings mean the same model. Called by the gateway and the runner's front.

`x` equals `x:latest`, and letters compare without case, as Ollama's clients expect.
"""

from __future__ import annotations

DEFAULT_TAG = "latest"


def has_tag(name: str) -> bool:
    """Whether the last part of the name carries a tag (a colon before the last slash is a registry's port)."""
    return ":" in name.rpartition("/")[2]


def tagged(name: str) -> str:
    """The name as Ollama's lists show it: always with a tag (`x` becomes `x:latest`)."""
    return name if has_tag(name) else f"{name}:{DEFAULT_TAG}"


def normal(name: str) -> str:
    """The spelling to compare and to look up by: two names mean the same model exactly when these are equal."""
    return tagged(name).lower()


def same(first: str, second: str) -> bool:
    """Whether both spellings mean the same model."""
    return normal(first) == normal(second)
