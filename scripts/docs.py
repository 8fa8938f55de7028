"""Regenerate every page that is made from code: `make docs`. Tests keep each page equal to what this writes."""

from __future__ import annotations

import runpy
from pathlib import Path

from paddock_operator.core import local_fields

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    (ROOT / "docs/reference/local-fields.md").write_text(local_fields.markdown())
    runpy.run_path(str(ROOT / "scripts/metrics_doc.py"), run_name="__main__")


if __name__ == "__main__":
    main()
