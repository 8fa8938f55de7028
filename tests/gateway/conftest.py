"""Fixtures of the gateway's tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.gateway import kit


@pytest.fixture
async def backend() -> AsyncGenerator[kit.Backend]:
    server = kit.Backend()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def gateway(backend: kit.Backend, tmp_path: Path) -> AsyncGenerator[kit.Running]:
    """A gateway with one key that may do everything and one model (`smollm2`, also `smollm2:135m`)."""
    key = kit.new_key()
    model = kit.model_entry("smollm2", backend.url, names=["smollm2", "smollm2:135m"])
    value = kit.config([model], [kit.key_entry(key)])
    async with kit.running(tmp_path / "gateway.json", value, key) as instance:
        yield instance
