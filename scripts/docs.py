"""Regenerate every page that is made from code: `make docs`. Tests keep each page equal to what this writes."""

from __future__ import annotations

from pathlib import Path

import api_doc
import metrics_doc

from paddock_operator.core import fields

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    (ROOT / "docs/reference/fields.md").write_text(fields.markdown(), encoding="utf-8")
    for page in (api_doc, metrics_doc):
        page.PAGE.write_text(page.page(), encoding="utf-8")


if __name__ == "__main__":
    main()
