"""What the gateway's tests are made of: keys, configurations, a scripted backend, a gateway in this event loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from paddock_runner import httpd
from paddock_runner.gateway.app import Gateway
from paddock_runner.gateway.upstream import Timings

CREDENTIAL = "backend-credential"
DEADLINE = 5.0


def new_key() -> str:
    return f"pdk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def key_entry(secret: str, *, id: str = "default/first", **changes: Any) -> dict[str, Any]:
    return {"id": id, "sha256": sha256(secret), "models": ["*"], "verbs": ["infer"], "expires": None, **changes}


def model_entry(name: str = "smollm2", *backends: str, **changes: Any) -> dict[str, Any]:
    details = {
        "format": "gguf",
        "family": "llama",
        "parameterSize": "134.52M",
        "quantization": "Q4_1",
        "contextLength": 2048,
        "embeddingLength": 576,
    }
    info = {
        "digest": "ab" * 32,
        "size": 98362432,
        "modifiedAt": "2026-01-01T00:00:00Z",
        "details": details,
        "capabilities": ["completion"],
    }
    return {"name": name, "names": [name], "backends": list(backends), "ready": True, "info": info, **changes}


def config(models: list[dict[str, Any]], keys: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "namespace": "default",
        "name": "main",
        "auth": "apiKey",
        "keys": keys,
        "models": models,
        "backendCredential": CREDENTIAL,
        "apis": ["ollama", "openai", "anthropic"],
        "drainSeconds": 5,
        **changes,
    }


def replace(path: Path, value: object) -> None:
    """Write a configuration as the executor does: a temporary file, then rename."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


async def until(condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    """Wait for a condition; fail after a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Script = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def head(status: int, media: str, *extra: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status} X", f"Content-Type: {media}", *extra, "", "")).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def replying(value: object, status: int = 200) -> Script:
    async def script(_request: Received, writer: asyncio.StreamWriter) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        writer.write(head(status, "application/json", f"Content-Length: {len(body)}") + body)
        await writer.drain()

    return script


def streaming(*parts: bytes, media: str = "application/x-ndjson", then: str = "end") -> Script:
    """Stream the parts, then `end` well, `cut` the connection, or `hang` until the other side goes."""

    async def script(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, media, "Transfer-Encoding: chunked"))
        for part in parts:
            writer.write(chunk(part))
            await writer.drain()
            await asyncio.sleep(0.01)
        if then == "end":
            writer.write(b"0\r\n\r\n")
        elif then == "cut":
            writer.transport.abort()
        else:
            await asyncio.Event().wait()

    return script


def in_two_parts(release: asyncio.Event) -> Script:
    """Stream one line, and the last one when `release` is set."""

    async def script(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, "application/x-ndjson", "Transfer-Encoding: chunked") + chunk(b'{"n":1}\n'))
        await release.wait()
        writer.write(chunk(b'{"done":true}\n') + b"0\r\n\r\n")

    return script


@dataclass
class Backend:
    """An HTTP/1.1 server whose every answer is a script. `gone` counts the peers that left during an answer."""

    script: Script = field(default_factory=lambda: replying({"ok": True}))
    requests: list[Received] = field(default_factory=list)
    gone: int = 0
    url: str = ""
    connections: int = 0
    _server: asyncio.Server | None = None

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self._server = await asyncio.start_server(self._serve, host, port)
        self.url = f"http://{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while not writer.is_closing():
                await self._answer(await self._receive(reader), reader, writer)
        writer.close()

    async def _receive(self, reader: asyncio.StreamReader) -> Received:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Received(method, path, headers, body))
        return self.requests[-1]

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        working = asyncio.ensure_future(self.script(request, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            self.gone += 1
            writer.transport.abort()
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


class InLoop(httpd.DrainingServer):
    """The server without its signal handlers, for a loop that belongs to a test."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End at once: uvicorn's own shutdown sleeps, which hundreds of tests would feel."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self.lifespan.shutdown()


@dataclass
class Running:
    """A gateway that accepts connections in this event loop."""

    gateway: Gateway
    path: Path
    url: str
    port: int
    client: httpx.AsyncClient
    key: str
    server: httpd.DrainingServer

    def auth(self, key: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key or self.key}"}

    async def post(self, path: str, body: object, **options: Any) -> httpx.Response:
        options.setdefault("headers", self.auth())
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        options.setdefault("headers", self.auth())
        return await self.client.get(path, **options)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that carry these labels."""
        return sum(
            sample.value
            for family in self.gateway.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def raw(self, data: bytes, *, shut: bool = False) -> bytes:
        """Everything that comes back for these bytes until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if shut:
            writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            answer = await reader.read()
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def running(
    path: Path,
    value: dict[str, Any],
    key: str = "",
    *,
    timings: Timings | None = None,
    host: str = "127.0.0.1",
    **options: Any,
) -> AsyncGenerator[Running]:
    """A gateway with this configuration; the other options are the gateway's."""
    replace(path, value)
    gateway = Gateway(path, timings=timings, **options)
    listener = httpd.open_socket(f"{host}:0")
    port = listener.getsockname()[1]
    linger = gateway.linger_seconds
    server = InLoop(httpd.settings(gateway), lambda: 5.0, gateway.drain, gateway.listening, linger)
    task = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started)
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE, trust_env=False) as client:
            yield Running(gateway, path, url, port, client, key, server)
    finally:
        if not server.should_exit and not server._signalled:
            server.handle_exit(15, None)
        async with asyncio.timeout(DEADLINE * 2):
            await task
