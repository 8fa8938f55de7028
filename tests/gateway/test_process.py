"""The gateway as the process that `paddock up` starts: events, exit codes, drain, second signal, logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.gateway import kit

pytestmark = pytest.mark.e2e

COMMAND = (sys.executable, "-m", "paddock_runner.commands.gateway")


class Process:
    """One gateway process: its address, its exit code and its log."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def end(self) -> tuple[int, list[dict[str, Any]]]:
        async with asyncio.timeout(20):
            _, stderr = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in stderr.splitlines()]


async def spawn(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdout=pipe, stderr=pipe, **options)


@contextlib.asynccontextmanager
async def started(
    path: Path, value: object, *arguments: str, listen: str = "127.0.0.1:0", **options: Any
) -> AsyncGenerator[Process]:
    kit.replace(path, value)
    process = await spawn("--config", str(path), "--listen", listen, *arguments, **options)
    assert process.stdout
    try:
        async with asyncio.timeout(20):
            event = json.loads(await process.stdout.readline())
        assert event["event"] == "listening"
        yield Process(process, f"http://{event['address']}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def one_model(backend: kit.Backend, key: str, **changes: Any) -> dict[str, Any]:
    return kit.config([kit.model_entry("smollm2", backend.url)], [kit.key_entry(key)], **changes)


async def test_sigterm_drains(backend: kit.Backend, tmp_path: Path) -> None:
    release, key = asyncio.Event(), kit.new_key()

    async def script(request: kit.Received, writer: asyncio.StreamWriter) -> None:
        writer.write(kit.head(200, "application/x-ndjson", "Transfer-Encoding: chunked") + kit.chunk(b'{"n":1}\n'))
        await release.wait()
        writer.write(kit.chunk(b'{"done":true}\n') + b"0\r\n\r\n")

    backend.script = script
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        started(tmp_path / "g.json", one_model(backend, key)) as gateway,
        httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=10) as client,
    ):
        async with client.stream("POST", "/api/chat", json={"model": "smollm2"}) as response:
            parts = response.aiter_raw()
            assert await anext(parts) == b'{"n":1}\n'
            gateway.process.terminate()
            async with asyncio.timeout(5):
                while (ready := await client.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.01)
            assert ready.json()["reason"] == "draining"
            assert (await client.get("/healthz")).status_code == 200
            refused = await client.post("/api/chat", json={"model": "smollm2"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "shutting down" in refused.json()["error"]
            release.set()
            assert b"".join([part async for part in parts]) == b'{"done":true}\n'
        code, log = await gateway.end()
    assert code == 0
    assert {"gateway"} == {line["component"] for line in log}
    assert [line["status"] for line in log if line["message"] == "request"] == [503, 200]


async def test_a_drain_has_an_end_and_the_stream_an_error(backend: kit.Backend, tmp_path: Path) -> None:
    key = kit.new_key()
    backend.script = kit.streaming(b'{"n":1}\n', then="hang")
    async with (
        started(tmp_path / "g.json", one_model(backend, key, drainSeconds=0.2)) as gateway,
        httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}, timeout=10) as client,
    ):
        async with client.stream("POST", "/api/chat", json={"model": "smollm2"}) as response:
            parts = response.aiter_raw()
            await anext(parts)
            gateway.process.terminate()
            rest = b"".join([part async for part in parts])
        assert "the gateway was stopped" in json.loads(rest)["error"]
        assert (await gateway.end())[0] == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(backend: kit.Backend, tmp_path: Path, second: signal.Signals) -> None:
    key = kit.new_key()
    backend.script = kit.streaming(b'{"n":1}\n', then="hang")
    async with (
        started(tmp_path / "g.json", one_model(backend, key, drainSeconds=60)) as gateway,
        httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}, timeout=10) as client,
        client.stream("POST", "/api/chat", json={"model": "smollm2"}) as response,
    ):
        await anext(response.aiter_raw())
        gateway.process.terminate()
        async with asyncio.timeout(5):
            while (await client.get("/readyz")).status_code == 200:
                await asyncio.sleep(0.01)
        gateway.process.send_signal(second)
        assert (await gateway.end())[0] == 130
    await kit.until(lambda: backend.gone == 1, 1.0)


async def test_an_inherited_socket_is_served(backend: kit.Backend, tmp_path: Path) -> None:
    key = kit.new_key()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        os.set_inheritable(number, True)
        options: dict[str, Any] = {"listen": f"fd:{number}", "pass_fds": (number,)}
        async with started(tmp_path / "g.json", one_model(backend, key), **options) as gateway:
            assert gateway.url == f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=gateway.url) as client:
                assert (await client.get("/healthz")).status_code == 200
            gateway.process.terminate()
            assert (await gateway.end())[0] == 0


async def outcome(*arguments: str, **options: Any) -> tuple[int | None, str]:
    process = await spawn(*arguments, **options)
    async with asyncio.timeout(20):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


async def test_what_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    kit.replace(good, kit.config([], []))
    kit.replace(bad, kit.config([], [], auth=""))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = await outcome("--config", str(good), "--listen", address)
    assert (code, text.count("\n")) == (4, 1)
    assert f"cannot listen on {address}: the address is in use" in text
    for path, words in ((bad, "auth: must be one of apiKey, none"), (tmp_path / "none.json", "No such file")):
        code, text = await outcome("--config", str(path), "--listen", "127.0.0.1:0")
        assert (code, text.count("\n")) == (2, 1)
        assert words in text


async def test_a_gateway_whose_parent_is_gone_does_not_start(tmp_path: Path) -> None:
    kit.replace(tmp_path / "g.json", kit.config([], []))
    environment = {**os.environ, "PADDOCK_PARENT_PID": "1" if os.getpid() != 1 else "2"}
    code, text = await outcome("--config", str(tmp_path / "g.json"), "--listen", "127.0.0.1:0", env=environment)
    assert (code, "is gone" in text) == (1, True)
