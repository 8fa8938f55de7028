"""The configuration changes while requests run: keys come and go, models move, mistakes are refused."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.gateway import kit


def current(gateway: kit.Running) -> Any:
    return json.loads(gateway.path.read_text())


async def in_force(gateway: kit.Running, value: object) -> None:
    """Put a configuration in place and wait, at most the promised second, until /readyz tells its hash."""
    kit.replace(gateway.path, value)
    expected = kit.sha256(gateway.path.read_text())
    async with asyncio.timeout(1.0):
        while (await gateway.client.get("/readyz")).json()["config"] != expected:
            await asyncio.sleep(0.01)


async def test_readyz_tells_the_configuration_in_force(gateway: kit.Running) -> None:
    ready = (await gateway.client.get("/readyz")).json()
    assert ready == {"ready": True, "config": kit.sha256(gateway.path.read_text())}


async def test_a_revoked_key_finishes_its_stream_and_is_refused_within_a_second(
    gateway: kit.Running, backend: kit.Backend
) -> None:
    release = asyncio.Event()
    backend.script = kit.in_two_parts(release)
    body = {"model": "smollm2"}
    async with gateway.client.stream("POST", "/api/chat", json=body, headers=gateway.auth()) as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b'{"n":1}\n'
        kit.replace(gateway.path, {**current(gateway), "keys": []})
        start = time.monotonic()
        while (await gateway.get("/api/tags")).status_code != 401:
            assert time.monotonic() - start < 1.0
            await asyncio.sleep(0.01)
        release.set()
        assert b"".join([part async for part in parts]) == b'{"done":true}\n'


async def test_a_new_key_and_a_new_model_come_into_force(gateway: kit.Running, backend: kit.Backend) -> None:
    value, key = current(gateway), kit.new_key()
    value["keys"].append(kit.key_entry(key, id="default/new"))
    value["models"].append(kit.model_entry("second", backend.url))
    await in_force(gateway, value)
    response = await gateway.post("/api/chat", {"model": "second"}, headers=gateway.auth(key))
    assert response.status_code == 200
    assert gateway.metric("paddock_gateway_config_reloads_total") == 1
    assert gateway.metric("paddock_gateway_api_keys") == 2


async def test_a_runner_that_moved_is_found(gateway: kit.Running, backend: kit.Backend) -> None:
    await backend.stop()
    moved = kit.Backend()
    await moved.start()
    value = current(gateway)
    value["models"][0]["backends"] = [moved.url]
    await in_force(gateway, value)
    assert (await gateway.post("/api/chat", {"model": "smollm2"})).status_code == 200
    assert gateway.metric("paddock_gateway_backends", state="ejected") == 0
    await moved.stop()


@pytest.mark.parametrize("broken", [b"", b"{", b'{"version":1}', b'{"version":2}', b"\xff\xfe"])
async def test_a_bad_file_changes_nothing_but_a_counter(
    gateway: kit.Running, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good, digest = gateway.path.read_bytes(), (await gateway.client.get("/readyz")).json()["config"]
    gateway.path.write_bytes(broken)
    await kit.until(lambda: gateway.metric("paddock_gateway_config_errors_total") == 1, 1.5)
    assert (await gateway.get("/api/tags")).status_code == 200
    assert (await gateway.client.get("/readyz")).json()["config"] == digest
    assert any("last good one stays" in record.getMessage() for record in caplog.records)
    gateway.path.write_bytes(good)
    assert gateway.gateway.file.poll() is False
    assert gateway.metric("paddock_gateway_config_errors_total") == 1


async def test_a_file_that_vanishes_changes_nothing(gateway: kit.Running) -> None:
    gateway.path.unlink()
    await kit.until(lambda: gateway.metric("paddock_gateway_config_errors_total") == 1, 1.5)
    assert (await gateway.get("/api/tags")).status_code == 200


async def test_a_request_keeps_the_limits_that_it_began_with(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(b"{}\n" * 3, then="hang")
    running = asyncio.create_task(gateway.post("/api/chat", {"model": "smollm2"}))
    await kit.until(lambda: len(backend.requests) == 1)
    await in_force(gateway, {**current(gateway), "limits": {"concurrency": 1, "queueDepth": 0}})
    assert (await gateway.post("/api/chat", {"model": "smollm2"})).status_code == 503
    assert not running.done()
    running.cancel()
    await kit.until(lambda: backend.gone == 1)
    backend.script = kit.replying({})
    await kit.until(lambda: gateway.metric("paddock_gateway_requests_in_flight") == 0)
    assert (await gateway.post("/api/chat", {"model": "smollm2"})).status_code == 200


async def test_a_limit_that_is_not_enforced_is_said(
    gateway: kit.Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await in_force(gateway, {**current(gateway), "limits": {"tokensPerMinute": 5}})
    assert any("tokensPerMinute" in record.getMessage() for record in caplog.records)
