"""The CRDs of the checkout, parsed and compiled once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from paddock_operator.core.schema import Schemas, load_crds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def crds() -> dict[str, dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    return {document["spec"]["names"]["kind"]: document for document in documents}


@pytest.fixture(scope="session")
def schemas(crds: dict[str, dict[str, Any]]) -> Schemas:
    return load_crds(crds.values())
