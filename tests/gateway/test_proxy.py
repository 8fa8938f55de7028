"""A request on its way to a runner and back: bytes, headers, retries, and every way in which it can break."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest
from tests.gateway import kit

from paddock_runner.gateway.upstream import Timings

LINES = [json.dumps({"response": word, "done": False}).encode() + b"\n" for word in ("one", "two", "thrée")]
EVENTS = [b'data: {"n":%d}\n\n' % number for number in range(3)]
BODY = {"model": "smollm2", "prompt": "secret prompt", "stream": True}


async def read_all(gateway: kit.Running, path: str = "/api/generate") -> tuple[httpx.Response, bytes]:
    async with gateway.client.stream("POST", path, json=BODY, headers=gateway.auth()) as response:
        return response, b"".join([part async for part in response.aiter_raw()])


@pytest.mark.parametrize(
    ("path", "media", "parts"),
    [
        ("/api/generate", "application/x-ndjson", LINES),
        ("/api/chat", "application/x-ndjson", LINES),
        ("/v1/chat/completions", "text/event-stream", [*EVENTS, b"data: [DONE]\n\n"]),
        ("/v1/completions", "text/event-stream", [b"\xff\x00 any bytes", b"\r\n\r\n"]),
        ("/v1/messages", "text/event-stream", EVENTS),
    ],
)
async def test_a_stream_passes_byte_for_byte(
    gateway: kit.Running, backend: kit.Backend, path: str, media: str, parts: list[bytes]
) -> None:
    backend.script = kit.streaming(*parts, media=media)
    response, body = await read_all(gateway, path)
    assert response.status_code == 200
    assert response.headers["content-type"] == media
    assert body == b"".join(parts)
    assert backend.requests[0].path == path
    assert json.loads(backend.requests[0].body) == BODY


async def test_parts_arrive_before_the_stream_ends(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(LINES[0], then="hang")
    async with gateway.client.stream("POST", "/api/generate", json=BODY, headers=gateway.auth()) as response:
        assert await anext(response.aiter_raw()) == LINES[0]


@pytest.mark.parametrize("status", [200, 400, 404, 500, 503])
async def test_an_answer_passes_with_its_status(gateway: kit.Running, backend: kit.Backend, status: int) -> None:
    backend.script = kit.replying(b'{ "odd":   "spacing" }', status)
    response = await gateway.post("/api/show", {"model": "smollm2"})
    assert (response.status_code, response.content) == (status, b'{ "odd":   "spacing" }')


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2", "smollm2:latest", "smollm2:135m", "SMOLLM2:135M"])
async def test_every_spelling_of_a_name_leads_to_the_model(
    gateway: kit.Running, backend: kit.Backend, name: str
) -> None:
    assert (await gateway.post("/api/chat", {"model": name})).status_code == 200
    assert json.loads(backend.requests[0].body) == {"model": name}


async def test_show_takes_name_as_well(gateway: kit.Running) -> None:
    assert (await gateway.post("/api/show", {"name": "smollm2"})).status_code == 200


async def test_only_allowed_headers_go_up(gateway: kit.Running, backend: kit.Backend) -> None:
    hostile = {
        "X-Forwarded-For": "1.2.3.4",
        "X-Remote-User": "root",
        "X-Paddock-Key": "admin",
        "Forwarded": "for=1.2.3.4",
        "Cookie": "a=b",
        "X-Request-Id": "bad id!",
        "traceparent": "x" * 5000,
        "Accept": "text/event-stream",
        "anthropic-version": "2023-06-01",
    }
    response = await gateway.post("/api/chat", {"model": "smollm2"}, headers={**gateway.auth(), **hostile})
    sent = backend.requests[0].headers
    assert sent["authorization"] == f"Bearer {kit.CREDENTIAL}"
    assert sent["accept"] == "text/event-stream"
    assert sent["anthropic-version"] == "2023-06-01"
    assert sent["x-request-id"] == response.headers["x-request-id"] != "bad id!"
    assert not sent.keys() & {"x-forwarded-for", "x-remote-user", "x-paddock-key", "forwarded", "cookie", "traceparent"}
    assert gateway.key not in json.dumps(sent)


async def test_a_good_request_id_and_trace_are_kept(gateway: kit.Running, backend: kit.Backend) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    headers = {**gateway.auth(), "X-Request-Id": "req_1-A", "traceparent": trace}
    response = await gateway.post("/api/chat", {"model": "smollm2"}, headers=headers)
    assert response.headers["x-request-id"] == "req_1-A"
    assert backend.requests[0].headers["x-request-id"] == "req_1-A"
    assert backend.requests[0].headers["traceparent"] == trace


async def test_the_runner_hears_what_the_key_may_do(gateway: kit.Running, backend: kit.Backend) -> None:
    forged = {**gateway.auth(), "X-Paddock-Verbs": "infer,manage", "X-Paddock-Tenant": "another"}
    await gateway.post("/api/chat", {"model": "smollm2"}, headers=forged)
    assert backend.requests[0].headers["x-paddock-verbs"] == "infer"
    assert backend.requests[0].headers["x-paddock-tenant"] not in ("", "another")


async def test_hop_by_hop_headers_do_not_come_down(gateway: kit.Running, backend: kit.Backend) -> None:
    async def script(_request: kit.Received, writer: asyncio.StreamWriter) -> None:
        extra = ("Content-Length: 2", "Connection: x-private", "X-Private: 1", "Server: s", "Set-Cookie: a=b")
        writer.write(kit.head(200, "application/json", *extra, "X-Kept: yes") + b"{}")

    backend.script = script
    response = await gateway.post("/api/chat", {"model": "smollm2"})
    assert response.headers["x-kept"] == "yes"
    assert not response.headers.keys() & {"x-private", "server", "set-cookie"}


async def test_connections_to_the_backend_are_reused(gateway: kit.Running, backend: kit.Backend) -> None:
    for _ in range(5):
        await gateway.post("/api/chat", {"model": "smollm2"})
    assert (len(backend.requests), backend.connections) == (5, 1)


async def test_an_idle_connection_that_the_backend_closed_is_not_an_error(
    gateway: kit.Running, backend: kit.Backend
) -> None:
    async def once_then_close(request: kit.Received, writer: asyncio.StreamWriter) -> None:
        if len(backend.requests) == 2:
            writer.transport.abort()
            return
        await kit.replying({"n": len(backend.requests)})(request, writer)

    backend.script = once_then_close
    assert (await gateway.post("/api/chat", {"model": "smollm2"})).json() == {"n": 1}
    assert (await gateway.post("/api/chat", {"model": "smollm2"})).json() == {"n": 3}
    assert gateway.metric("paddock_gateway_retries_total", reason="reset") == 1


async def test_a_dead_backend_is_passed_over(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    dead = kit.Backend()
    await dead.start()
    await dead.stop()
    model = kit.model_entry("smollm2", dead.url, backend.url)
    value = kit.config([model], [kit.key_entry(gateway.key)])
    async with kit.running(tmp_path / "two.json", value, gateway.key) as two:
        codes = [(await two.post("/api/chat", {"model": "smollm2"})).status_code for _ in range(6)]
        assert codes == [200] * 6
        assert two.metric("paddock_gateway_backend_requests_total", result="connect_error") == 1
        assert two.metric("paddock_gateway_backends", state="ejected") == 1


async def test_two_backends_take_turns(gateway: kit.Running, backend: kit.Backend, tmp_path: Path) -> None:
    other = kit.Backend()
    await other.start()
    value = kit.config([kit.model_entry("smollm2", other.url, backend.url)], [kit.key_entry(gateway.key)])
    async with kit.running(tmp_path / "two.json", value, gateway.key) as two:
        for _ in range(6):
            await two.post("/api/chat", {"model": "smollm2"})
        assert (len(other.requests), len(backend.requests)) == (3, 3)
        other.script = kit.replying({"error": "loading"}, 503)
        assert [(await two.post("/api/chat", {"model": "smollm2"})).status_code for _ in range(4)] == [200] * 4
    await other.stop()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/chat", {"error": "model 'smollm2' is not ready yet; try again in a moment"}),
        (
            "/v1/chat/completions",
            {
                "error": {
                    "message": "model 'smollm2' is not ready yet; try again in a moment",
                    "type": "api_error",
                    "param": None,
                    "code": "model_not_ready",
                }
            },
        ),
    ],
)
async def test_no_backend_is_503_with_retry_after(
    gateway: kit.Running, backend: kit.Backend, path: str, expected: object
) -> None:
    await backend.stop()
    response = await gateway.post(path, {"model": "smollm2"})
    assert (response.status_code, response.json()) == (503, expected)
    assert response.headers["retry-after"] == "1"


async def test_a_model_that_is_not_ready_is_503(gateway: kit.Running, tmp_path: Path) -> None:
    models = [kit.model_entry("asleep", "http://127.0.0.1:1", ready=False), kit.model_entry("nowhere")]
    async with kit.running(tmp_path / "n.json", kit.config(models, [kit.key_entry(gateway.key)]), gateway.key) as other:
        for name in ("asleep", "nowhere"):
            response = await other.post("/v1/messages", {"model": name})
            assert response.status_code == 503
            assert response.json()["error"]["type"] == "overloaded_error"
            assert response.headers["retry-after"] == "1"


async def test_death_before_the_answer_is_502(gateway: kit.Running, backend: kit.Backend) -> None:
    async def die(_request: kit.Received, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    backend.script = die
    response = await gateway.post("/api/chat", {"model": "smollm2"})
    assert response.status_code == 502
    assert "stopped before it answered" in response.json()["error"]
    assert len(backend.requests) == 2


async def test_death_inside_a_whole_answer_is_502(gateway: kit.Running, backend: kit.Backend) -> None:
    async def half(_request: kit.Received, writer: asyncio.StreamWriter) -> None:
        writer.write(kit.head(200, "application/json", "Content-Length: 100") + b'{"half":')
        await writer.drain()
        writer.close()

    backend.script = half
    response = await gateway.post("/api/chat", {"model": "smollm2"})
    assert response.status_code == 502
    assert "middle of the answer" in response.json()["error"]


async def test_a_silent_backend_is_502_after_the_deadline(
    gateway: kit.Running, backend: kit.Backend, tmp_path: Path
) -> None:
    async def silent(_request: kit.Received, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    backend.script = silent
    value = kit.config([kit.model_entry("smollm2", backend.url)], [kit.key_entry(gateway.key)])
    async with kit.running(tmp_path / "s.json", value, gateway.key, timings=Timings(idle=0.2)) as other:
        response = await other.post("/api/chat", {"model": "smollm2"})
    assert response.status_code == 502
    assert "did not answer in time" in response.json()["error"]
    assert len(backend.requests) == 1


async def test_a_refused_credential_is_not_shown_as_the_clients_fault(
    gateway: kit.Running, backend: kit.Backend
) -> None:
    backend.script = kit.replying({"error": "unauthorized"}, 401)
    response = await gateway.post("/api/chat", {"model": "smollm2"})
    assert response.status_code == 502
    assert "does not know this Endpoint" in response.json()["error"]


async def test_a_cut_ndjson_stream_ends_with_an_error_line(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(*LINES[:2], then="cut")
    _, body = await read_all(gateway)
    lines = [json.loads(line) for line in body.splitlines()]
    assert [line.get("response") for line in lines[:2]] == ["one", "two"]
    assert list(lines[2]) == ["error"]
    assert len(lines) == 3
    assert gateway.metric("paddock_gateway_stream_aborts_total", side="backend") == 1


async def test_a_cut_sse_stream_ends_with_an_error_event_and_no_done(
    gateway: kit.Running, backend: kit.Backend
) -> None:
    backend.script = kit.streaming(*EVENTS[:1], media="text/event-stream", then="cut")
    _, body = await read_all(gateway, "/v1/chat/completions")
    events = [part for part in body.split(b"\n\n") if part]
    assert events[0] + b"\n\n" == EVENTS[0]
    assert json.loads(events[1].removeprefix(b"data: "))["error"]["code"] == "backend_failed"
    assert len(events) == 2
    assert b"[DONE]" not in body


async def test_a_cut_anthropic_stream_ends_with_its_error_event(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(b"event: ping\ndata: {}\n\n", media="text/event-stream", then="cut")
    _, body = await read_all(gateway, "/v1/messages")
    assert b"\n\nevent: error\ndata: {" in body
    error = json.loads(body.rstrip().rsplit(b"data: ", 1)[1])
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")


async def test_a_record_cut_in_half_does_not_swallow_the_error(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(b'{"response":"on', then="cut")
    _, body = await read_all(gateway)
    assert list(json.loads(body.splitlines()[-1])) == ["error"]


async def test_another_media_type_ends_with_the_connection(gateway: kit.Running, backend: kit.Backend) -> None:
    backend.script = kit.streaming(b"some", media="application/octet-stream", then="cut")
    with pytest.raises(httpx.RemoteProtocolError):
        await read_all(gateway)


PROGRAM = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.recv(65536)
head = "HTTP/1.1 200 OK", "Content-Type: application/x-ndjson", "Transfer-Encoding: chunked", "", ""
connection.sendall("\\r\\n".join(head).encode())
connection.sendall(b"a\\r\\n{\\"n\\": 12}\\n\\r\\n")
time.sleep(60)
"""


async def test_kill_9_of_the_backend_mid_stream(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout
    port = int(await process.stdout.readline())
    key = kit.new_key()
    value = kit.config([kit.model_entry("smollm2", f"http://127.0.0.1:{port}")], [kit.key_entry(key)])
    async with (
        kit.running(tmp_path / "k.json", value, key) as gateway,
        gateway.client.stream("POST", "/api/generate", json=BODY, headers=gateway.auth()) as response,
    ):
        parts = response.aiter_raw()
        assert await anext(parts) == b'{"n": 12}\n'
        process.send_signal(signal.SIGKILL)
        rest = b"".join([part async for part in parts])
        assert list(json.loads(rest)) == ["error"]
    await process.wait()


@pytest.mark.parametrize("then", ["hang", "before"])
async def test_a_client_that_leaves_frees_the_backend_within_a_second(
    gateway: kit.Running, backend: kit.Backend, then: str
) -> None:
    async def silent(_request: kit.Received, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    backend.script = kit.streaming(LINES[0], then="hang") if then == "hang" else silent
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps(BODY)
    writer.write(
        f"POST /api/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    await kit.until(lambda: len(backend.requests) == 1)
    assert gateway.metric("paddock_gateway_requests_in_flight") == 1
    writer.close()
    await kit.until(lambda: backend.gone == 1, 1.0)
    await kit.until(lambda: gateway.metric("paddock_gateway_requests_in_flight") == 0, 1.0)
    assert gateway.metric("paddock_gateway_backend_requests_total", result="cancelled") == 1
    assert gateway.metric("paddock_gateway_requests_total", code="499") == 1
