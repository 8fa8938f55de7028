"""The `paddock` command. Entry points: `main`, `kubectl_main`. A verb's module is imported only when it runs."""

from paddock_operator.cli.app import kubectl_main, main

__all__ = ["kubectl_main", "main"]
