"""The gateway on a real API server: the Secret, EndpointSlices, reports, and life without the API server."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from tests.gateway import cluster_kit, kit
from tests.gateway.cluster_kit import NAME, Yard
from tests.gateway.test_process import started
from tests.support.apiserver import ApiServer

from paddock_runner.gateway.cluster.client import ApiError, Client
from paddock_runner.gateway.cluster.report import Reporter

CHAT = {"model": "smollm2"}


@pytest.fixture
async def yard(apiserver: ApiServer, namespace: str, tmp_path: Path) -> Yard:
    made = Yard(apiserver, namespace, tmp_path)
    await asyncio.to_thread(made.prepare)
    return made


@pytest.fixture
def key() -> str:
    return kit.new_key()


def values(key: str, *keys: dict[str, Any], **changes: Any) -> dict[str, Any]:
    limits = {"queueSeconds": changes.pop("queue_seconds", 20)}
    return kit.config([cluster_kit.service_model()], [kit.key_entry(key), *keys], limits=limits, **changes)


async def nobody(_host: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


@pytest.fixture
async def gateway(yard: Yard, key: str, tmp_path: Path) -> AsyncGenerator[kit.Running]:
    """A gateway whose watch of the Secret stands and says what the file says."""
    digest = await yard.put_config(values(key))
    options: dict[str, Any] = {"place": yard.place(), "resolve": nobody}
    async with kit.running(tmp_path / "gateway.json", values(key), key, **options) as running:
        await cluster_kit.in_force(running, digest)
        await kit.until(lambda: running.metric("paddock_gateway_config_source", source="watch") == 1)
        await kit.until(lambda: running.gateway.directory.knows_slices)
        yield running


@pytest.fixture
async def backend() -> AsyncGenerator[kit.Backend]:
    server = kit.Backend()
    await server.start(host=cluster_kit.own_address())
    yield server
    await server.stop()


async def serve_from(yard: Yard, gateway: kit.Running, backend: kit.Backend) -> None:
    await yard.put_runner(backend)
    await kit.until(lambda: gateway.metric("paddock_gateway_backends", state="healthy") == 1)


async def test_the_watch_wins_over_the_file_and_a_late_file_changes_nothing(
    yard: Yard, gateway: kit.Running, key: str
) -> None:
    new = kit.new_key()
    digest = await yard.put_config(values(new))
    await cluster_kit.in_force(gateway, digest)
    assert (await gateway.get("/api/tags")).status_code == 401
    kit.replace(gateway.path, values(key, drainSeconds=7))
    assert gateway.gateway.file.poll() is False
    assert (await gateway.get("/api/tags")).status_code == 401
    assert (await gateway.get("/api/tags", headers=gateway.auth(new))).status_code == 200
    assert gateway.metric("paddock_gateway_watch_connected", resource="secrets") == 1
    assert time.time() - gateway.metric("paddock_gateway_watch_last_event_timestamp_seconds", resource="secrets") < 10


async def test_a_revoked_key_is_refused_at_once_and_its_stream_ends_well(
    yard: Yard, gateway: kit.Running, backend: kit.Backend
) -> None:
    release = asyncio.Event()
    backend.script = kit.in_two_parts(release)
    await serve_from(yard, gateway, backend)
    async with gateway.client.stream("POST", "/api/chat", json=CHAT, headers=gateway.auth()) as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b'{"n":1}\n'
        start = time.monotonic()
        await yard.put_config({**values(gateway.key), "keys": []})
        while (await gateway.get("/api/tags")).status_code != 401:
            assert time.monotonic() - start < 5.0
            await asyncio.sleep(0.01)
        release.set()
        assert b"".join([part async for part in parts]) == b'{"done":true}\n'


@pytest.mark.parametrize("broken", [b"{", b'{"version":9}', b""])
async def test_a_bad_secret_is_counted_and_the_last_good_configuration_stays(
    yard: Yard, gateway: kit.Running, broken: bytes
) -> None:
    await yard.put_config(broken)
    await kit.until(lambda: gateway.metric("paddock_gateway_config_errors_total") == 1)
    assert (await gateway.get("/api/tags")).status_code == 200
    other = kit.new_key()
    await cluster_kit.in_force(gateway, await yard.put_config(values(other)))
    assert (await gateway.get("/api/tags", headers=gateway.auth(other))).status_code == 200


async def test_a_deleted_secret_is_said_and_survived(
    yard: Yard, gateway: kit.Running, caplog: pytest.LogCaptureFixture
) -> None:
    await yard.delete(f"{yard.core}/secrets/{NAME}")
    await kit.until(lambda: any("does not exist" in record.getMessage() for record in caplog.records))
    assert (await gateway.get("/api/tags")).status_code == 200
    assert (await gateway.client.get("/readyz")).json()["ready"] is True
    other = kit.new_key()
    await cluster_kit.in_force(gateway, await yard.put_config(values(other)))


async def test_slices_decide_who_is_asked(yard: Yard, gateway: kit.Running, backend: kit.Backend) -> None:
    await serve_from(yard, gateway, backend)
    assert (await gateway.post("/api/chat", CHAT)).status_code == 200
    other = kit.Backend()
    await other.start(host=cluster_kit.own_address())
    entries = (
        cluster_kit.endpoint(cluster_kit.own_address(), ready=False),
        cluster_kit.endpoint("10.254.0.1", ready=True, serving=True, terminating=True),
    )
    await yard.put_slice(*entries, port=cluster_kit.port_of(backend))
    await yard.put_runner(other, name="another-slice")
    await kit.until(lambda: gateway.gateway.directory._slices == {cluster_kit.SERVICE: (other.url,)})
    assert (await gateway.post("/api/chat", CHAT)).status_code == 200
    assert (len(backend.requests), len(other.requests)) == (1, 1)
    await yard.delete(f"{yard.slices}/another-slice")
    await kit.until(lambda: gateway.metric("paddock_gateway_backends", state="healthy") == 0)
    await other.stop()


async def test_a_request_waits_for_a_runner(yard: Yard, gateway: kit.Running, backend: kit.Backend) -> None:
    waiting = asyncio.create_task(gateway.post("/api/chat", CHAT))
    await kit.until(lambda: gateway.metric("paddock_gateway_requests_held") == 1)
    assert gateway.metric("paddock_gateway_requests_in_flight") == 0
    await serve_from(yard, gateway, backend)
    assert (await waiting).status_code == 200
    assert gateway.metric("paddock_gateway_requests_held") == 0


async def test_nobody_came(yard: Yard, gateway: kit.Running) -> None:
    await cluster_kit.in_force(gateway, await yard.put_config(values(gateway.key, queue_seconds=0.2)))
    start = time.monotonic()
    response = await gateway.post("/v1/messages", CHAT)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["type"] == "overloaded_error"
    assert 0.2 <= time.monotonic() - start < 2.0


async def test_no_request_fails_while_the_only_runner_is_replaced(
    yard: Yard, gateway: kit.Running, backend: kit.Backend
) -> None:
    """What a Drain rollout looks like: the runner drains, goes; a while later another comes at another address."""
    codes: list[int] = []
    stop = asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            codes.append((await gateway.post("/api/chat", CHAT, timeout=20)).status_code)

    async def refusing(_request: kit.Received, writer: asyncio.StreamWriter) -> None:
        body = b'{"error":"shutting down"}'
        extra = ("Retry-After: 1", "Connection: close", f"Content-Length: {len(body)}")
        writer.write(kit.head(503, "application/json", *extra) + body)
        await writer.drain()
        writer.close()

    async def slow(request: kit.Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        await kit.replying({"ok": True})(request, writer)

    backend.script = slow
    await serve_from(yard, gateway, backend)
    clients = [asyncio.create_task(client()) for _ in range(4)]
    await kit.until(lambda: len(codes) > 40)
    backend.script = refusing
    await kit.until(lambda: gateway.metric("paddock_gateway_requests_held") == 4)
    await yard.put_slice(port=cluster_kit.port_of(backend))
    await backend.stop()
    await asyncio.sleep(1.0)
    held = len(codes)
    successor = kit.Backend(slow)
    await successor.start(host=cluster_kit.own_address())
    await yard.put_runner(successor)
    await kit.until(lambda: len(codes) > held + 40)
    stop.set()
    await asyncio.gather(*clients)
    await successor.stop()
    assert set(codes) == {200}


async def test_a_runner_that_dies_over_a_request_is_replaced_within_the_queue_time(
    yard: Yard, gateway: kit.Running, backend: kit.Backend
) -> None:
    async def die(_request: kit.Received, writer: asyncio.StreamWriter) -> None:
        await backend.stop()
        writer.transport.abort()

    backend.script = die
    port = cluster_kit.port_of(backend)
    await serve_from(yard, gateway, backend)
    asking = asyncio.create_task(gateway.post("/api/chat", CHAT, timeout=20))
    await kit.until(lambda: gateway.metric("paddock_gateway_backend_requests_total", result="connect_error") >= 2)
    assert gateway.metric("paddock_gateway_backend_ejections_total", model="smollm2") >= 2
    successor = kit.Backend()
    await successor.start(port, cluster_kit.own_address())
    assert (await asking).status_code == 200
    await successor.stop()


async def test_the_configuration_in_force_is_reported(yard: Yard, gateway: kit.Running) -> None:
    async def reported(digest: str) -> None:
        async def told() -> bool:
            return bool((await yard.report()).get("config") == digest)

        await cluster_kit.until_true(told, 10)

    await reported((await gateway.client.get("/readyz")).json()["config"])
    digest = await yard.put_config(values(kit.new_key()))
    await reported(digest)
    path = f"{yard.core}/configmaps/{NAME}-gateways"
    await yard.delete(path)
    latest = await yard.put_config(values(kit.new_key()))
    await kit.until(lambda: gateway.metric("paddock_gateway_reports_failed_total") == 1)
    await asyncio.to_thread(yard.put_reports)
    await reported(latest)


async def test_its_rights_end_at_its_own_objects(yard: Yard, gateway: kit.Running) -> None:
    client = Client(yard.place().access)
    try:
        for path in (
            f"{yard.core}/secrets",
            f"{yard.core}/secrets/other",
            f"{yard.core}/configmaps",
            f"{yard.core}/pods",
        ):
            with pytest.raises(ApiError) as caught:
                await client.get(path)
            assert caught.value.status == 403
    finally:
        await client.close()


async def test_the_gateway_outlives_the_api_server(
    yard: Yard, gateway: kit.Running, backend: kit.Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await serve_from(yard, gateway, backend)
    server = yard.server
    await asyncio.to_thread(server.kill_server)
    try:
        await kit.until(lambda: gateway.metric("paddock_gateway_watch_connected") == 0)
        assert (await gateway.post("/api/chat", CHAT)).status_code == 200
        await a_restarted_gateway_serves_from_file_and_dns(yard, gateway.key, backend, tmp_path)
        assert (await gateway.client.get("/readyz")).json()["ready"] is True
    finally:
        # In this thread: the kernel ends the server with the thread that started it.
        server.start_server()
    other = kit.new_key()
    await cluster_kit.in_force(gateway, await yard.put_config(values(other)), 30)
    assert (await gateway.post("/api/chat", CHAT, headers=gateway.auth(other))).status_code == 200
    assert gateway.metric("paddock_gateway_watch_restarts_total") >= 2


async def a_restarted_gateway_serves_from_file_and_dns(
    yard: Yard, key: str, backend: kit.Backend, folder: Path
) -> None:
    asked: list[str] = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return [cluster_kit.own_address()]

    name = f"http://{cluster_kit.SERVICE}.{yard.namespace}.svc:{cluster_kit.port_of(backend)}"
    value = kit.config([cluster_kit.service_model(name)], [kit.key_entry(key)])
    options: dict[str, Any] = {"place": yard.place(), "resolve": resolve}
    async with kit.running(folder / "second.json", value, key, **options) as second:
        assert (await second.post("/api/chat", CHAT)).status_code == 200
        assert second.metric("paddock_gateway_config_source", source="file") == 1
    assert asked == [f"{cluster_kit.SERVICE}.{yard.namespace}.svc"]


async def test_the_program_finds_its_cluster(yard: Yard, backend: kit.Backend, key: str, tmp_path: Path) -> None:
    await yard.put_runner(backend)
    digest = await yard.put_config(values(key))
    # A proxy of the environment must not divert calls to the API server.
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "PATH": "/usr/bin"}
    arguments = ("--secret", f"{yard.namespace}/{NAME}")
    options: dict[str, Any] = {"env": {**yard.environment(), **proxy}}
    async with started(tmp_path / "g.json", values(kit.new_key()), *arguments, **options) as program:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=program.url, headers=headers, trust_env=False) as client:

            async def answered() -> bool:
                return (await client.post("/api/chat", json=CHAT)).status_code == 200

            await cluster_kit.until_true(answered, 10)

            async def told() -> bool:
                return bool((await yard.report()).get("config") == digest)

            await cluster_kit.until_true(told, 10)
        program.process.terminate()
        code, lines = await program.end()
    assert code == 0
    assert key not in json.dumps(lines)


class Recording:
    """A client that keeps what is patched."""

    def __init__(self) -> None:
        self.patched: list[tuple[str, dict[str, Any]]] = []

    async def merge_patch(self, path: str, change: dict[str, Any]) -> None:
        self.patched.append((path, change))


async def test_a_gateway_that_ends_takes_its_report_away() -> None:
    client = Recording()
    reporter = Reporter(cast(Client, client), "/configmaps/main-gateways", "pod-1", lambda: "aa", lambda: None)
    await reporter.leave()
    assert client.patched == [("/configmaps/main-gateways", {"data": {"pod-1": None}})]
