"""What a real API server shows once a month: expired versions, silence, replaced tokens, stale caches, big answers."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import ssl
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.gateway import cluster_kit, kit
from tests.gateway.cluster_kit import FakeApi, event, hang, playing
from tests.support.authority import Authority

from paddock_runner.gateway.cluster import client as client_module
from paddock_runner.gateway.cluster.access import Access, NotInClusterError, in_cluster
from paddock_runner.gateway.cluster.client import ApiError, Client, Json
from paddock_runner.gateway.cluster.reflector import Backoff, Pace, Reflector, Target
from paddock_runner.gateway.cluster.report import Reporter
from paddock_runner.gateway.cluster.secret import SecretSource

SLICES = Target("endpointslices", "/slices")
SECRET = Target("secrets", "/secrets", name="main")


class Seen:
    """A sink that remembers: names of what there is, and the value of each."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.lists = 0

    def replaced(self, objects: Sequence[Json]) -> None:
        self.lists += 1
        self.objects = {value["metadata"]["name"]: value.get("value") for value in objects}

    def changed(self, kind: str, value: Json) -> None:
        if kind == "DELETED":
            self.objects.pop(value["metadata"]["name"], None)
        else:
            self.objects[value["metadata"]["name"]] = value.get("value")


def item(name: str, version: int | str, value: object = None) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "value": value}


def listing(version: int, *items: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[FakeApi]:
    async with cluster_kit.fake_api(tmp_path) as server:
        yield server


class Following:
    """A reflector at work."""

    def __init__(self, api: FakeApi, target: Target, pace: Pace = cluster_kit.QUICK) -> None:
        self.seen = Seen()
        self.failures = 0
        self.client = Client(api.access())
        self.reflector = Reflector(self.client, target, self.seen, self._failed, pace)
        self.task = asyncio.create_task(self.reflector.run())

    def _failed(self) -> None:
        self.failures += 1

    async def __aenter__(self) -> Following:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.client.close()


async def test_events_change_what_was_listed(api: FakeApi) -> None:
    api.objects["/slices"] = listing(10, item("a", 3), item("b", 4))
    api.watches["/slices"] = playing(
        event("MODIFIED", item("a", 11, "new")),
        event("DELETED", item("b", 12)),
        event("ADDED", item("c", 13)),
        then=hang,
    )
    async with Following(api, SLICES) as following:
        await kit.until(lambda: following.seen.objects == {"a": "new", "c": None})
        assert api.seen("GET", "/slices", watch="1")[0].query["resourceVersion"] == "10"
        assert api.requests[0].headers["Authorization"] == "Bearer first-token"


async def test_a_list_is_read_page_by_page(api: FakeApi) -> None:
    pages = {"": listing(10, item("a", 1)), "more": listing(10, item("b", 2))}
    pages[""]["metadata"]["continue"] = "more"

    def paged(request: web.Request) -> web.StreamResponse | None:
        return None if "watch" in request.query else web.json_response(pages[request.query.get("continue", "")])

    api.refuse = paged
    async with Following(api, SLICES) as following:
        await kit.until(lambda: following.seen.objects.keys() == {"a", "b"})


async def test_a_watch_goes_on_where_it_ended(api: FakeApi) -> None:
    api.objects["/slices"] = listing(10)
    bookmark = {"metadata": {"resourceVersion": "50"}}
    api.watches["/slices"] = playing(event("BOOKMARK", bookmark))
    async with Following(api, SLICES) as following:
        await kit.until(lambda: bool(api.seen("GET", "/slices", watch="1", resourceVersion="50")))
        assert (following.seen.lists, following.failures) == (1, 0)
        assert following.reflector.health.connected


@pytest.mark.parametrize("way", ["status", "event"])
async def test_an_expired_version_begins_with_a_new_list(api: FakeApi, way: str) -> None:
    api.objects["/slices"] = listing(10, item("old", 3))

    async def expired(request: web.Request) -> web.StreamResponse:
        api.objects["/slices"] = listing(20, item("new", 15))
        api.watches["/slices"] = hang
        gone = {"code": 410, "message": "too old resource version"}
        if way == "status":
            return web.json_response(gone, status=410)
        return await playing(event("ERROR", gone))(request)

    api.watches["/slices"] = expired
    async with Following(api, SLICES) as following:
        await kit.until(lambda: following.seen.objects.keys() == {"new"})
        await kit.until(lambda: bool(api.seen("GET", "/slices", watch="1", resourceVersion="20")))


async def test_silence_is_noticed(api: FakeApi) -> None:
    api.objects["/slices"] = listing(10)
    api.watches["/slices"] = hang
    async with Following(api, SLICES, Pace(0.1, 0.2, 0.2)) as following:
        await kit.until(lambda: following.failures >= 2)
        assert len(api.seen("GET", "/slices", watch="1")) >= 2


def test_a_dead_connection_is_noticed_within_a_minute() -> None:
    pace = Pace()
    assert pace.longest + pace.grace + client_module.CONNECT_SECONDS <= 60


async def test_a_replaced_token_is_used_with_the_next_call(api: FakeApi, tmp_path: Path) -> None:
    def only_second(request: web.Request) -> web.StreamResponse | None:
        good = request.headers["Authorization"] == "Bearer second-token"
        return None if good else web.json_response({"message": "Unauthorized"}, status=401)

    api.objects["/slices"], api.refuse = listing(10, item("a", 1)), only_second
    async with Following(api, SLICES) as following:
        await kit.until(lambda: following.failures >= 1)
        (tmp_path / "token").write_text("second-token\n")
        await kit.until(lambda: following.seen.objects.keys() == {"a"})


async def test_a_lagging_cache_does_not_bring_back_what_was_replaced(api: FakeApi) -> None:
    api.objects["/secrets/main"] = item("main", 100, "without the key")
    api.watches["/secrets"] = playing(
        event("ADDED", item("main", 90, "with the key")), event("BOOKMARK", item("", 101)), then=hang
    )
    async with Following(api, SECRET) as following:
        await kit.until(lambda: following.reflector._version == "101")
        assert following.seen.objects == {"main": "without the key"}
        first = api.seen("GET", "/secrets", watch="1")[0]
        assert (first.query["fieldSelector"], "resourceVersion" in first.query) == ("metadata.name=main", False)


async def test_an_absent_secret_is_found_when_it_comes(api: FakeApi) -> None:
    api.watches["/secrets"] = playing(event("ADDED", item("main", 7, "here")), then=hang)
    async with Following(api, SECRET) as following:
        await kit.until(lambda: following.seen.objects == {"main": "here"})


@pytest.mark.parametrize(
    "nonsense", [b"not json\n", b"[]\n", b'"text"\n', b"x" * 100, b'{"type":"ERROR","object":{"code":500}}\n']
)
async def test_nonsense_is_a_failure_and_not_the_end(
    api: FakeApi, nonsense: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_EVENT_BYTES", 50)
    api.objects["/slices"] = listing(10)
    api.watches["/slices"] = playing(nonsense, then=hang)
    async with Following(api, SLICES) as following:
        await kit.until(lambda: following.failures >= 1)
        api.watches["/slices"] = playing(event("ADDED", item("a", 11)), then=hang)
        await kit.until(lambda: following.seen.objects.keys() == {"a"})


async def test_answers_and_lists_are_bounded(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(client_module, "MAX_PAGES", 3)
    api.objects["/big"] = {"text": "x" * 2000}
    api.objects["/endless"] = {"metadata": {"continue": "more"}, "items": []}
    client = Client(api.access())
    with pytest.raises(ApiError, match="larger than 1000 bytes"):
        await client.get("/big")
    with pytest.raises(ApiError, match="more than"):
        await client.list("/endless", {})
    await client.close()


async def test_an_unreadable_token_is_a_failure_like_others(api: FakeApi, tmp_path: Path) -> None:
    client = Client(api.access())
    for text in ("", "two\nlines"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(ApiError, match="token"):
            await client.get("/x")
    (tmp_path / "token").unlink()
    with pytest.raises(ApiError, match="FileNotFoundError"):
        await client.get("/x")
    await client.close()


def test_pauses_grow_up_to_fifteen_seconds() -> None:
    backoff = Backoff()
    pauses = [backoff.next() for _ in range(20)]
    assert 0.1 <= pauses[0] <= 0.2
    assert all(7.5 <= pause <= 15.0 for pause in pauses[10:])
    backoff.reset()
    assert backoff.next() <= 0.2


async def report_once(api: FakeApi, **options: Any) -> tuple[Reporter, asyncio.Task[None], list[int], Client]:
    client, failures = Client(api.access()), [0]

    def failed() -> None:
        failures[0] += 1

    reporter = Reporter(client, "/maps/main-gateways", "pod-1", lambda: "ab" * 32, failed, **options)
    return reporter, asyncio.create_task(reporter.run()), failures, client


async def test_a_report_is_repeated_until_it_is_taken_and_then_not_again(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddock_runner.gateway.cluster.report.WRITE_SECONDS", 0.01)
    monkeypatch.setattr("paddock_runner.gateway.cluster.report.ABSENT_SECONDS", 0.01)
    answers = [404, 404, 500]
    api.refuse = lambda _request: web.json_response({}, status=answers.pop()) if answers else None
    reporter, task, failures, client = await report_once(api)
    reporter._backoff.first = 0.01
    await kit.until(lambda: len(api.patches) == 1)
    assert failures == [3]
    stored = api.patches[0]["data"]["pod-1"]
    assert json.loads(stored)["config"] == "ab" * 32
    api.objects["/maps/main-gateways"] = {"data": {"pod-1": stored}}
    reporter.changed()
    await kit.until(lambda: bool(api.seen("GET", "/maps")))
    api.objects["/maps/main-gateways"] = {}
    reporter.changed()
    await kit.until(lambda: len(api.patches) == 2)
    assert api.seen("PATCH", "/maps")[-1].headers["Content-Type"] == "application/merge-patch+json"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.close()


async def call_and_give_up(folder: Path) -> None:
    """Cancel a call while the server, over TLS, thinks; it never says farewell either."""
    authority = Authority.make()
    pairs = dict(zip(("server.crt", "server.key"), authority.issue("127.0.0.1"), strict=True))
    for name, text in {"token": b"t", "ca.crt": authority.pem, **pairs}.items():
        (folder / name).write_bytes(text)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    asked, over = asyncio.Event(), asyncio.Event()

    async def think(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        asked.set()
        await over.wait()
        writer.transport.abort()

    async with await asyncio.start_server(think, "127.0.0.1", 0, ssl=context) as server:
        client = Client(Access(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", folder))
        call = asyncio.create_task(client.get("/maps"))
        await asyncio.wait_for(asked.wait(), 5)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await client.close()
        over.set()
        left = [one for one in gc.get_objects() if type(one).__name__ == "_SelectorSocketTransport"]
        name = server.sockets[0].getsockname()
        open_ones = [one for one in left if one.get_extra_info("socket").fileno() >= 0]
        assert [one for one in open_ones if one.get_extra_info("peername") == name] == []


async def test_a_call_that_is_given_up_leaves_no_connection(tmp_path: Path) -> None:
    await asyncio.wait_for(call_and_give_up(tmp_path), 10)


async def test_a_forbidden_api_leaves_traffic_alone(api: FakeApi, backend: kit.Backend, tmp_path: Path) -> None:
    async def resolve(_host: str) -> list[str]:
        return ["127.0.0.1"]

    api.refuse = lambda _request: web.json_response({"message": "no"}, status=403)
    name = f"http://runner.ns.svc:{cluster_kit.port_of(backend)}"
    key = kit.new_key()
    value = kit.config([cluster_kit.service_model(name)], [kit.key_entry(key)])
    options: dict[str, Any] = {"place": api.place(), "resolve": resolve}
    async with kit.running(tmp_path / "g.json", value, key, **options) as gateway:
        assert (await gateway.post("/api/chat", {"model": "smollm2"})).status_code == 200
        await kit.until(lambda: gateway.metric("paddock_gateway_reports_failed_total") >= 1)
        assert (await gateway.client.get("/readyz")).status_code == 200
        assert gateway.metric("paddock_gateway_watch_connected") == 0


@pytest.mark.parametrize(
    ("host", "base"),
    [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443"), ("api.test", "https://api.test:443")],
)
def test_the_address_of_the_api_server(host: str, base: str) -> None:
    assert in_cluster({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}).base == base


@pytest.mark.parametrize("environment", [{}, {"KUBERNETES_SERVICE_HOST": "x"}, {"KUBERNETES_SERVICE_PORT": "1"}])
def test_outside_of_a_cluster(environment: dict[str, str]) -> None:
    with pytest.raises(NotInClusterError, match="KUBERNETES_SERVICE_HOST"):
        in_cluster(environment)


async def test_a_secret_without_a_configuration_is_an_empty_one() -> None:
    taken: list[bytes] = []
    source = SecretSource(taken.append)
    for data in ({}, None, {"gateway.json": "not base64!"}, {"gateway.json": base64.b64encode(b"{}").decode()}):
        source.changed("MODIFIED", {"data": data})
    assert taken == [b"", b"", b"", b"{}"]
