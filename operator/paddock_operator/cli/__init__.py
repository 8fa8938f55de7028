"""The `paddock` command. `main` is the entry point; a verb's module is imported only when that verb runs."""

from paddock_operator.cli.app import main

__all__ = ["main"]
