"""What is sent to break things: framing, sizes, slow bodies, bad JSON, odd paths and methods."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import pytest
from tests.gateway import kit

from paddock_runner.gateway.upstream import Timings

CHAT = json.dumps({"model": "smollm2"})


def request(gateway: kit.Running, *headers: str, body: str = CHAT, path: str = "/api/chat") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {gateway.key}", *headers, "", body]
    return "\r\n".join(lines).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 20", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 20"),
        ("Content-Length: 20", "Content-Length: 21"),
        ("Content-Length: 20, 21",),
        ("Content-Length: -1",),
        ("Content-Length: 1e3",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Host: evil.example",),
        ("Content-Length: 20", "no colon here"),
        ("Content-Length: 20", "X-Nul: a\0b"),
        ("Content-Length: 20", "Space : x"),
        ("Content-Length: 20", f"X-Huge: {'x' * 70_000}"),
        ("Content-Length: 20", *(f"X-{number}: {'y' * 100}" for number in range(1000))),
    ],
)
async def test_bad_framing_is_refused_and_the_connection_closes(
    gateway: kit.Running, backend: kit.Backend, headers: tuple[str, ...]
) -> None:
    answer = await gateway.raw(request(gateway, *headers))
    assert status(answer) in (400, 431)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert backend.requests == []


async def test_a_smuggled_second_request_is_not_answered(gateway: kit.Running, backend: kit.Backend) -> None:
    inner = request(gateway, f"Content-Length: {len(CHAT)}").decode()
    outer = request(gateway, "Content-Length: 4", "Transfer-Encoding: chunked", body=f"0\r\n\r\n{inner}")
    answer = await gateway.raw(outer)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert backend.requests == []


@pytest.mark.parametrize(
    ("line", "host", "expected"),
    [
        ("GET /healthz HTTP/1.1", "Host: a/b", 400),
        ("GET /healthz HTTP/1.1", "Host: user@host", 400),
        ("GET /healthz HTTP/1.1", "Host: a b", 400),
        ("GET /healthz HTTP/1.1", "Host: [::1]:11434", 200),
        ("GET /healthz HTTP/1.1", "X-No: host", 400),
        ("GET /healthz HTTP/1.0", "X-No: host", 200),
        ("GET /healthz HTTP/9.9", "Host: x", 400),
        ("GET /healthz", "Host: x", 400),
        ("PRI * HTTP/2.0", "Host: x", 400),
        ("GET http://evil.example/healthz HTTP/1.1", "Host: x", 404),
        ("CONNECT evil.example:443 HTTP/1.1", "Host: x", 404),
        ("TRACE /healthz HTTP/1.1", "Host: x", 405),
        (f"GET /{'a' * 70_000} HTTP/1.1", "Host: x", 431),
    ],
)
async def test_odd_request_lines(gateway: kit.Running, line: str, host: str, expected: int) -> None:
    assert status(await gateway.raw(f"{line}\r\n{host}\r\nConnection: close\r\n\r\n".encode())) == expected


@pytest.mark.parametrize(
    "path",
    [
        "//v1//models",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/api/tags/",
        "/api//tags",
        "/API/tags",
        "/api/tags%00",
        "/docs",
        "/openapi.json",
        "/debug",
        "/v1/engines",
        "/v1/messages/count_tokens",
    ],
)
async def test_no_other_path_is_a_route(gateway: kit.Running, path: str) -> None:
    answer = await gateway.raw(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {gateway.key}\r\n\r\n".encode()
    )
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert status(answer) == 404
    if path.startswith("/v1/messages"):
        assert body["error"]["type"] == "not_found_error"
    elif path.startswith("/v1/"):
        assert body["error"]["code"] == "unknown_url"
    else:
        assert body == {"error": "404 page not found"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/chat", "POST"),
        ("POST", "/api/tags", "GET, HEAD"),
        ("DELETE", "/v1/models/smollm2", "GET"),
        ("PUT", "/", "GET, HEAD"),
        ("GET", "/api/delete", "DELETE"),
        ("HEAD", "/v1/models", "GET"),
    ],
)
async def test_a_wrong_method_is_405(gateway: kit.Running, method: str, path: str, allowed: str) -> None:
    response = await gateway.client.request(method, path, headers=gateway.auth())
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", f"/api/blobs/sha256:{'a' * 64}"),
        ("HEAD", f"/api/blobs/sha256:{'a' * 64}"),
    ],
)
async def test_management_is_refused(gateway: kit.Running, backend: kit.Backend, method: str, path: str) -> None:
    response = await gateway.client.request(method, path, headers=gateway.auth(), content=b"{}")
    assert response.status_code == 403
    if method != "HEAD":
        assert "management is disabled" in response.json()["error"]
    assert backend.requests == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_10_mb_body_is_413(gateway: kit.Running, backend: kit.Backend, chunked: bool) -> None:
    big = b'{"model":"smollm2","prompt":"' + b"x" * 10_000_000 + b'"}'

    async def pieces() -> object:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    content = pieces() if chunked else big
    response = await gateway.client.post("/api/chat", content=content, headers=gateway.auth())  # type: ignore[arg-type]
    assert response.status_code == 413
    assert "larger than 4194304 bytes" in response.json()["error"]
    assert backend.requests == []


async def test_a_body_without_end_is_cut_off(gateway: kit.Running, backend: kit.Backend) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request(gateway, "Transfer-Encoding: chunked", body=""))
    block = kit.chunk(b"x" * 65536)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 60_000_000:
            writer.write(block)
            await asyncio.wait_for(writer.drain(), kit.DEADLINE)
            sent += len(block)
    assert sent < 60_000_000
    assert backend.requests == []
    writer.transport.abort()
    reader.feed_eof()


async def test_an_announced_body_that_is_too_large_is_not_even_asked_for(gateway: kit.Running) -> None:
    answer = await gateway.raw(request(gateway, "Content-Length: 5000000", "Expect: 100-continue", body=""))
    assert status(answer) == 413
    assert b"100 Continue" not in answer


async def test_a_slow_body_is_408(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    value = kit.config([kit.model_entry("smollm2", backend.url)], [kit.key_entry(gateway.key)])
    async with kit.running(tmp_path / "slow.json", value, gateway.key, timings=Timings(body=0.3)) as slow:
        reader, writer = await asyncio.open_connection("127.0.0.1", slow.port)
        writer.write(request(slow, "Content-Length: 20", body="{"))
        start = time.monotonic()
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert status(head) == 408
        assert time.monotonic() - start < 2
        assert await reader.read() == b'{"error": "the body did not arrive within 0.3 s"}'
        writer.close()
    assert backend.requests == []


async def test_a_body_shorter_than_announced_never_reaches_a_backend(
    gateway: kit.Running, backend: kit.Backend
) -> None:
    assert await gateway.raw(request(gateway, "Content-Length: 500"), shut=True) == b""
    await kit.until(lambda: gateway.metric("paddock_gateway_requests_total", code="499") == 1)
    assert backend.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b"{", "invalid JSON"),
        (b"[" * 200_000, "nested deeper"),
        (b'{"model":"smollm2","prompt":"\xff"}', "not UTF-8"),
        ('{"model":"smollm2"}'.encode("utf-16"), "not UTF-8"),
        (b'{"model":"smollm2","prompt":"\\ud800"}', "lone surrogate"),
        (b'{"model":"smollm2","model":"other"}', "duplicate key"),
        (b'{"model":"smollm2","seed":' + b"1" * 4000 + b"}", "more than 20 digits"),
        (b'{"model":"smollm2","temperature":NaN}', "NaN"),
        (b'{"model":"smollm2","temperature":1e999}', "too large"),
        (b'["smollm2"]', "must be a JSON object"),
        (b'"smollm2"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"model":5}', "model must be a string"),
        (b'{"model":["smollm2"]}', "model must be a string"),
        (b"{}", "model is required"),
        (b'{"model":""}', "model is required"),
    ],
)
async def test_a_bad_body_is_400_in_every_dialect(
    gateway: kit.Running, backend: kit.Backend, body: bytes, message: str
) -> None:
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        response = await gateway.post(path, body)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert message in (error if isinstance(error, str) else error["message"])
    assert backend.requests == []


async def test_a_large_body_is_parsed_and_passes(gateway: kit.Running, backend: kit.Backend) -> None:
    body = b'{"model":"smollm2","prompt":"' + b"x" * 3_000_000 + b'"}'
    assert (await gateway.post("/api/generate", body)).status_code == 200
    assert backend.requests[0].body == body


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("/api/generate", "nope", "model 'nope' not found"),
        ("/api/chat", "../etc/passwd", "model '../etc/passwd' not found"),
        ("/api/show", "nope", "model 'nope:latest' not found"),
        ("/api/show", "nope:1b", "model 'nope:1b' not found"),
        ("/api/embed", "nope", 'model "nope" not found, try pulling it first'),
        ("/api/embeddings", "nope", 'model "nope" not found, try pulling it first'),
        ("/api/generate", "", "model '' not found"),
        ("/api/embed", "", "model '' not found"),
        ("/api/chat", "n" * 10_000, f"model '{'n' * 128}…' not found"),
        ("/api/chat", "smollm2@sha256:00", "model 'smollm2@sha256:00' not found"),
        ("/v1/chat/completions", "no\u001b[31m", "model 'no\u001b[31m' not found"),
    ],
)
async def test_an_unknown_model_is_404(gateway: kit.Running, path: str, name: str, message: str) -> None:
    response = await gateway.post(path, {"model": name})
    assert response.status_code == 404
    error = response.json()["error"]
    if path.startswith("/v1"):
        assert error == {"message": message, "type": "not_found_error", "param": "model", "code": "model_not_found"}
    else:
        assert error == message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "image/png"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity"}, 200),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 200),
        ({"Content-Type": "text/plain"}, 200),
        ({}, 200),
    ],
)
async def test_media_types(gateway: kit.Running, headers: dict[str, str], expected: int) -> None:
    response = await gateway.post("/api/chat", {"model": "smollm2"}, headers={**gateway.auth(), **headers})
    assert response.status_code == expected


async def test_hostile_names_do_not_grow_the_metrics(gateway: kit.Running) -> None:
    def series() -> int:
        return len((gateway.gateway.metrics.render()).splitlines())

    async def storm(start: int) -> None:
        for number in range(start, start + 30):
            await gateway.post("/api/chat", {"model": f"model-{number}"})
            await gateway.get(f"/nowhere/{number}")
            await gateway.get(f"/v1/models/x{number}")

    await storm(0)
    before = series()
    await storm(1000)
    assert series() == before
