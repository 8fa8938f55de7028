"""`paddock-operator`: the cluster executor's program. This version has the local executor only, and says so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

UNSUPPORTED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `run` and say what is missing; exit code 2."""
    parser = argparse.ArgumentParser(prog="paddock-operator", description="Keep Models and Endpoints on a cluster.")
    parser.add_argument("command", choices=["run"], help="run the operator")
    parser.parse_args(argv)
    sys.stderr.write("the cluster executor is not part of this version; on one machine use: paddock up -f PATH\n")
    return UNSUPPORTED


if __name__ == "__main__":
    sys.exit(main())
