"""`paddock version`."""

from __future__ import annotations

import argparse
import sys
from importlib import metadata


def version(_: argparse.Namespace) -> int:
    """Print the version of the distribution."""
    sys.stdout.write(f"paddock {metadata.version('paddock-operator')}\n")
    return 0
