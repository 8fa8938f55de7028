"""An Endpoint without keys: it works, it says so loudly, and other people's web pages stay out."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from tests.gateway import kit


def open_config(backend: kit.Backend, **changes: Any) -> dict[str, Any]:
    return kit.config([kit.model_entry("smollm2", backend.url)], [], auth="none", **changes)


async def test_without_keys_everybody_may_infer_and_list(backend: kit.Backend, tmp_path: Path) -> None:
    async with kit.running(tmp_path / "o.json", open_config(backend)) as gateway:
        assert (await gateway.post("/api/chat", {"model": "smollm2"}, headers={})).status_code == 200
        assert len((await gateway.get("/v1/models", headers={})).json()["data"]) == 1
        assert (await gateway.get("/api/tags", headers=gateway.auth("whatever"))).status_code == 200
        assert "warning" not in (await gateway.client.get("/readyz")).json()
        assert gateway.metric("paddock_gateway_unauthenticated") == 0
        assert backend.requests[0].headers["authorization"] == f"Bearer {kit.CREDENTIAL}"


async def test_beyond_loopback_it_warns(backend: kit.Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with kit.running(tmp_path / "o.json", open_config(backend), host="0.0.0.0") as gateway:
        ready = (await gateway.client.get("/readyz")).json()
        assert ready["ready"] is True
        assert "anybody may use the models" in ready["warning"]
        assert gateway.metric("paddock_gateway_unauthenticated") == 1
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len([record for record in warnings if "auth is none" in record.getMessage()]) == 1


async def test_with_keys_nothing_warns_beyond_loopback(gateway: kit.Running, tmp_path: Path) -> None:
    value = kit.config([], [kit.key_entry(gateway.key)])
    async with kit.running(tmp_path / "k.json", value, gateway.key, host="0.0.0.0") as other:
        assert "warning" not in (await other.client.get("/readyz")).json()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:11434", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("127.9.9.9:1", 200),
        ("[::1]:11434", 200),
        ("192.168.1.5:11434", 200),
        ("0.0.0.0", 200),
        ("a.localhost", 200),
        ("box.local", 200),
        ("box.internal", 200),
        (socket.gethostname(), 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("8.8.8.8", 403),
        ("xlocalhost", 403),
    ],
)
async def test_on_loopback_the_host_must_be_local(backend: kit.Backend, tmp_path: Path, host: str, status: int) -> None:
    async with kit.running(tmp_path / "o.json", open_config(backend)) as gateway:
        response = await gateway.get("/api/tags", headers={"Host": host})
        assert response.status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://[::1]:80", 200),
        ("vscode-webview://abc", 200),
        ("app://obsidian.md", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("null", 403),
    ],
)
async def test_a_foreign_page_may_not_use_it(backend: kit.Backend, tmp_path: Path, origin: str, status: int) -> None:
    async with kit.running(tmp_path / "o.json", open_config(backend)) as gateway:
        response = await gateway.post("/api/chat", {"model": "smollm2"}, headers={"Origin": origin})
        assert response.status_code == status


async def test_with_keys_host_and_origin_do_not_matter(gateway: kit.Running) -> None:
    headers = {**gateway.auth(), "Host": "models.example.com", "Origin": "https://app.example.com"}
    assert (await gateway.get("/api/tags", headers=headers)).status_code == 200
