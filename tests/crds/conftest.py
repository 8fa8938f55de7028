"""The CRDs of the checkout, parsed and compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.crds.kube import Kube
from tests.support.apiserver import ApiServer

from paddock_operator.core.schema import Schemas, load_crds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def crds() -> dict[str, dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    return {document["spec"]["names"]["kind"]: document for document in documents}


@pytest.fixture(scope="session")
def schemas(crds: dict[str, dict[str, Any]]) -> Schemas:
    return load_crds(crds.values())


@pytest.fixture(scope="session")
def kube(apiserver: ApiServer) -> Iterator[Kube]:
    """A connection to the API server; anything that restarts the server needs its own."""
    connection = Kube(apiserver)
    yield connection
    connection.close()
