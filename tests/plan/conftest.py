"""The compiled CRDs: every planned status is held against them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from paddock_operator.core.schema import Schemas, load_crds


@pytest.fixture(scope="session")
def schemas() -> Schemas:
    folder = Path(__file__).resolve().parents[2] / "crds"
    return load_crds(yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml")))
