"""What the tests of a gateway on a cluster are made of: an Endpoint's objects on a real API server, a scripted one.

The objects are those that the operator makes, down to the rights: the gateway shows the token of a ServiceAccount that
may do what docs/reference/cluster.md allows, and nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from tests.gateway import kit
from tests.support.apiserver import ApiServer

from paddock_runner.gateway.cluster.access import Access, in_cluster
from paddock_runner.gateway.cluster.link import Place
from paddock_runner.gateway.cluster.reflector import Pace

NAME = "main-abc12345"
POD = "main-abc12345-7d9c6bf8d4-xk2lp"
SERVICE = "smollm2-1a2b3c4d"
QUICK = Pace(2.0, 3.0, 1.0)
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def service_model(*urls: str, **changes: Any) -> dict[str, Any]:
    return kit.model_entry("smollm2", *(urls or (f"http://{SERVICE}.test.svc:8080",)), service=SERVICE, **changes)


def secret(namespace: str, value: object) -> dict[str, Any]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    meta = {"name": NAME, "namespace": namespace}
    data = {"gateway.json": base64.b64encode(body).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "type": "paddock.dev/endpoint", "metadata": meta, "data": data}


def endpoint(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions or {"ready": True}}


def slice_object(*entries: dict[str, Any], port: int, name: str = f"{SERVICE}-x", **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": SERVICE}},
        "addressType": "IPv4",
        "endpoints": list(entries),
        "ports": [{"name": "metrics", "port": 1}, {"name": "http", "port": port}],
        **changes,
    }


def own_address() -> str:
    """An address of this machine that EndpointSlices may hold: the API server refuses loopback ones there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, only asks for a route
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def port_of(backend: kit.Backend) -> int:
    return urlsplit(backend.url).port or 0


@dataclass
class Yard:
    """One namespace on the real API server with what an Endpoint's gateway needs. Calls run in a thread."""

    server: ApiServer
    namespace: str
    folder: Path

    @property
    def core(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}"

    @property
    def slices(self) -> str:
        return f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"

    def prepare(self) -> None:
        """ServiceAccount, rights, the ConfigMap of the reports, and the token as the kubelet would mount it."""
        apply, meta = self.server.api.apply, {"name": NAME, "namespace": self.namespace}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
        apply(f"{self.core}/serviceaccounts/{NAME}", account)
        own = [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [NAME], "verbs": ["get", "watch"]},
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [f"{NAME}-gateways"],
                "verbs": ["get", "patch"],
            },
        ]
        discovery = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]}
        shared = [{**discovery, "verbs": ["get", "list", "watch"]}]
        for name, rules in ((NAME, own), (f"{NAME}-slices", shared)):
            self._grant(name, rules)
        self.put_reports()
        (self.folder / "token").write_text(self.server.token_for(self.namespace, NAME))
        (self.folder / "ca.crt").write_bytes(self.server.ca.read_bytes())

    def _grant(self, name: str, rules: list[dict[str, Any]]) -> None:
        meta = {"name": name, "namespace": self.namespace}
        path = f"{RBAC}/namespaces/{self.namespace}"
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules}
        self.server.api.apply(f"{path}/roles/{name}", role)
        binding = {
            **role,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": self.namespace}],
        }
        del binding["rules"]
        self.server.api.apply(f"{path}/rolebindings/{name}", binding)

    def put_reports(self) -> None:
        meta = {"name": f"{NAME}-gateways", "namespace": self.namespace}
        path = f"{self.core}/configmaps/{NAME}-gateways"
        self.server.api.apply(path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})

    def environment(self) -> dict[str, str]:
        address = urlsplit(self.server.url)
        return {
            "KUBERNETES_SERVICE_HOST": address.hostname or "",
            "KUBERNETES_SERVICE_PORT": str(address.port),
            "PADDOCK_SERVICE_ACCOUNT_DIR": str(self.folder),
            "POD_NAME": POD,
        }

    def place(self, pace: Pace = QUICK) -> Place:
        return Place(in_cluster(self.environment()), self.namespace, NAME, POD, pace)

    async def put_config(self, value: object) -> str:
        """Write the Secret; the SHA-256 of its gateway.json."""
        document = secret(self.namespace, value)
        await asyncio.to_thread(self.server.api.apply, f"{self.core}/secrets/{NAME}", document)
        body = base64.b64decode(document["data"]["gateway.json"])
        return kit.sha256(body.decode("latin-1")) if body.isascii() else ""

    async def put_runner(self, backend: kit.Backend, name: str = f"{SERVICE}-x") -> None:
        """Say that this runner, and nobody else of the slice, is ready."""
        parts = urlsplit(backend.url)
        await self.put_slice(endpoint(parts.hostname or ""), port=parts.port or 0, name=name)

    async def put_slice(self, *entries: dict[str, Any], port: int, name: str = f"{SERVICE}-x") -> None:
        value = slice_object(*entries, port=port, name=name)
        await asyncio.to_thread(self.server.api.apply, f"{self.slices}/{name}", value)

    async def delete(self, path: str) -> None:
        status, answer = await asyncio.to_thread(self.server.api.request, "DELETE", path)
        assert status == 200, answer

    async def report(self) -> dict[str, Any]:
        """What the gateway reported, or nothing."""
        path = f"{self.core}/configmaps/{NAME}-gateways"
        _, answer = await asyncio.to_thread(self.server.api.request, "GET", path)
        text = (answer.get("data") or {}).get(POD)
        return json.loads(text) if text else {}


async def until_true(condition: Callable[[], Awaitable[bool]], seconds: float = kit.DEADLINE) -> None:
    """Wait for a condition that has to be asked for."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def in_force(gateway: kit.Running, digest: str, seconds: float = kit.DEADLINE) -> None:
    """Wait until /readyz tells this hash; it always says ready."""

    async def told() -> bool:
        ready = (await gateway.client.get("/readyz")).json()
        assert ready["ready"] is True
        return bool(ready["config"] == digest)

    await until_true(told, seconds)


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeApi:
    """An API server that answers as a test says; `objects` are what a GET of a path gives, `watches` what a watch does.

    It is here to inject faults that a real one shows once a month.
    """

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    watches: dict[str, Answer] = field(default_factory=dict)
    requests: list[web.Request] = field(default_factory=list)
    refuse: Callable[[web.Request], web.StreamResponse | None] = lambda _request: None
    patches: list[Any] = field(default_factory=list)
    folder: Path = Path()
    base: str = ""

    def access(self) -> Access:
        return Access(self.base, self.folder)

    def place(self, pace: Pace = QUICK) -> Place:
        return Place(self.access(), "ns", NAME, POD, pace)

    def seen(self, method: str, part: str, **query: str) -> list[web.Request]:
        return [
            request
            for request in self.requests
            if request.method == method and part in request.path and query.items() <= dict(request.query).items()
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if (refused := self.refuse(request)) is not None:
            return refused
        if request.method == "PATCH":
            self.patches.append(await request.json())
            return web.json_response({})
        if "watch" in request.query:
            return await self.watches.get(request.path, hang)(request)
        if request.path not in self.objects:
            return web.json_response({"message": "not found"}, status=404)
        return web.json_response(self.objects[request.path])


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    return response


def event(kind: str, value: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


async def hang(request: web.Request) -> web.StreamResponse:
    """A watch without events, for ever: what a connection into a black hole looks like."""
    response = await stream(request)
    await asyncio.Event().wait()
    return response


def playing(*events: bytes, then: Answer | None = None) -> Answer:
    """A watch that sends these events and ends, or stays silent."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await stream(request)
        for item in events:
            await response.write(item)
        if then is hang:
            await asyncio.Event().wait()
        return response

    return answer


@contextlib.asynccontextmanager
async def fake_api(folder: Path) -> AsyncGenerator[FakeApi]:
    (folder / "token").write_text("first-token")
    api = FakeApi(folder=folder)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()
