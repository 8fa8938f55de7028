"""Fixtures and marks for every test folder."""

from __future__ import annotations

import pytest
from tests.support.apiserver import apiserver, namespace

__all__ = ["apiserver", "namespace"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses the API server carries its mark."""
    for item in items:
        if "apiserver" in getattr(item, "fixturenames", ()):
            item.add_marker("apiserver")
