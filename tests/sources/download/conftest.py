from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.downloads import CHUNK, random_file
from tests.support.fault_server import FaultServer, serving

from paddock_runner.store.store import Store

SIZE = 20 * CHUNK + 123


@pytest.fixture(scope="session")
def data() -> bytes:
    return random_file(SIZE)


@pytest.fixture
def server(data: bytes) -> Iterator[FaultServer]:
    with serving(data) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")
