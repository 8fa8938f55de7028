"""Regenerate every page that is made from code: `make docs`. Tests keep each page equal to what this writes."""

from __future__ import annotations

import contextlib
import runpy
from pathlib import Path

from paddock_operator.core import fields

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    (ROOT / "docs/reference/fields.md").write_text(fields.markdown())
    for script in ("metrics_doc.py", "api_doc.py"):
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")


if __name__ == "__main__":
    main()
