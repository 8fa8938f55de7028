"""Text that is safe to print. Called by `terminal` and by the CLI's tables."""

from __future__ import annotations


def safe(value: str) -> str:
    """Text without control characters: a name or a message must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in value)
